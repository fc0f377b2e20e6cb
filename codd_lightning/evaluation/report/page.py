"""The report as one page that needs nothing else: style, script, figures and samples are in it."""

import json
import re
from collections.abc import Sequence
from html import escape
from importlib.resources import files
from typing import Any

from codd_lightning.evaluation.figures import svg
from codd_lightning.evaluation.report.comparisons import setting_label
from codd_lightning.evaluation.report.drawings import Drawing
from codd_lightning.evaluation.report.runs import Key, Record, Run
from codd_lightning.evaluation.report.tables import Cell, Table

SAMPLES_PER_CELL = 50
LARGEST_DIFF = 4_000_000  # token pairs that the page still aligns: two responses of 2,000 tokens


def page(runs: Sequence[Run], tables: Sequence[Table], drawings: Sequence[Drawing], title: str) -> str:
    """The page as HTML.

    What runs are called and what models said is escaped wherever it stands; the script shows samples as text only.
    """
    numbers = {
        key: i for i, key in enumerate((run.name, setting) for run in runs for setting in run.samples)
    }  # of the sets of samples, as the page's addresses give them
    sections = [_table(table, numbers, f"table{i}") for i, table in enumerate(tables)]
    links = [f'<a href="#table{i}">{escape(table.title)}</a>' for i, table in enumerate(tables)]
    figures = "".join(
        f"<figure>{_inline(svg(drawing.figure), number)}<figcaption>{escape(drawing.caption)}</figcaption></figure>"
        for number, drawing in enumerate(drawings)
    )
    values = {
        "title": escape(title),
        "style": _part("page.css"),
        "links": "\n".join(links),
        "tables": "\n".join(sections),
        "figures": figures,
        "samples": _SAMPLES if numbers else "<p>No run here kept its samples (samples.jsonl).</p>",
        "data": script_json(_data(runs)),
        "script": _part("page.js"),
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda match: values[match[1]], _PAGE)  # one pass: values are not looked into


def script_json(value: Any) -> str:
    """JSON that can stand in a script element: nothing in it ends the element or starts a comment."""
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _data(runs: Sequence[Run]) -> dict[str, Any]:
    """Samples by run and setting; each problem's text is kept once."""
    problems: dict[tuple[str, str], int] = {}
    cells = []
    for run in runs:
        for records in run.samples.values():
            decoder = setting_label(records[0])
            shown = records[:SAMPLES_PER_CELL]
            steps = records[0].get("steps_per_block")
            extra = "".join(f", {name} {records[0][name]}" for name in ("gamma", "tau") if name in records[0])
            cells.append(
                {
                    "run": run.name,
                    "decoder": decoder,
                    "label": f"{run.name} · {decoder}{extra} · {steps} steps per block",
                    "note": f"The first {len(shown)} of {len(records)} samples.",
                    "samples": [_sample(record, problems) for record in shown],
                }
            )
    return {"problems": [list(texts) for texts in problems], "cells": cells, "largest_diff": LARGEST_DIFF}


def _sample(record: Record, problems: dict[tuple[str, str], int]) -> dict[str, Any]:
    costs = [f"{record[name]} {unit}" for name, unit in (("tokens", "tokens"), ("nfe", "NFE")) if name in record]
    return {
        "index": record["index"],
        "problem": problems.setdefault((record["prompt"], record["target"]), len(problems)),
        "pieces": record["pieces"],
        "strict": record["strict"],
        "flexible": record["flexible"],
        "costs": ", ".join(costs),
    }


def _table(table: Table, numbers: dict[tuple[str, Key], int], anchor: str) -> str:
    header = "".join(
        f'<th{_class(i, table)} scope="col"><button type="button">{escape(name)}</button></th>'
        for i, name in enumerate(table.header)
    )
    body = "".join(
        "<tr>" + "".join(_cell(cell, _class(i, table), numbers) for i, cell in enumerate(row)) + "</tr>"
        for row in table.rows
    )
    note = f"<p>{escape(table.note)}</p>" if table.note else ""
    return (
        f'<section id="{anchor}"><h2>{escape(table.title)}</h2>{note}<div class="scroll"><table>'
        f"<thead><tr>{header}</tr></thead><tbody>{body}</tbody></table></div></section>"
    )


def _class(column: int, table: Table) -> str:
    return ' class="number"' if column in table.numeric else ""


def _cell(cell: Cell, of_class: str, numbers: dict[tuple[str, Key], int]) -> str:
    text = escape(cell.text)
    if cell.samples is not None:
        text = f'<a href="#samples/{numbers[cell.samples]}">{text}</a>'
    number = "" if cell.number is None else f' data-number="{cell.number!r}"'
    return f"<td{of_class}{number}>{text}</td>"


def _inline(text: str, number: int) -> str:
    """An SVG document as an element of a page, its ids made its own."""
    element = text[text.index("<svg") :]
    element = re.sub(r'\bid="', f'id="f{number}-', element)
    element = element.replace("url(#", f"url(#f{number}-")
    return re.sub(r'xlink:href="#', f'xlink:href="#f{number}-', element)


def _part(name: str) -> str:
    return files("codd_lightning.evaluation.report").joinpath(name).read_text(encoding="utf-8")


_SAMPLES = """<div class="choose">
<label>first <select id="first"></select></label>
<label>second <select id="second"></select></label>
<label>problems <select id="only"><option value="all">all</option>
<option value="grade">only where strict grades differ</option>
<option value="tokens">only where tokens differ</option></select></label>
</div><div id="view"></div>"""

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<title>{{title}}</title>
<style>
{{style}}</style>
</head>
<body>
<h1>{{title}}</h1>
<nav>{{links}} <a href="#figures">Figures</a> <a href="#compare">Sample by sample</a></nav>
{{tables}}
<section id="figures"><h2>Figures</h2><div class="figures">{{figures}}</div></section>
<section id="compare"><h2>Two decoders sample by sample</h2>
<p>Choose two, or follow a linked cell of a table to its samples.</p>
{{samples}}
</section>
<script type="application/json" id="data">{{data}}</script>
<script>
{{script}}</script>
</body>
</html>
"""
