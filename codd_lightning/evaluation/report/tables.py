"""The tables of a report, as cells that Markdown, CSV and HTML write out."""

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from io import StringIO
from typing import Any

from codd_lightning.evaluation.figures import pareto_front
from codd_lightning.evaluation.report.comparisons import Comparison
from codd_lightning.evaluation.report.paper import Published
from codd_lightning.evaluation.report.runs import Key, Run, by_task, differing_settings, sample_key
from codd_lightning.evaluation.rows import Row, is_final, series_label

# What every row has; any other label of any row gets a column after these.
FIXED = ("name", "value", "low", "high", "n", "unit", "split")
ACCURACIES = ("strict_accuracy", "flexible_accuracy", "exact_match")


@dataclass(frozen=True)
class Cell:
    """A cell: what it shows, what it is sorted by, and whose samples it is made of (run and setting)."""

    text: str
    number: float | None = None
    samples: tuple[str, Key] | None = None


@dataclass(frozen=True)
class Table:
    """A titled table; `note` is a sentence under the title."""

    title: str
    header: list[str]
    rows: list[list[Cell]]
    note: str = ""
    numeric: set[int] = field(default_factory=set)


def runs_table(runs: Sequence[Run]) -> Table:
    """A row for each run: its sizes, its time, and the settings that differ between runs of its experiment."""
    rows = []
    for run in runs:
        others = [other for other in runs if other.experiment == run.experiment]
        settings = ", ".join(
            _said(key, run.config[key]) for key in differing_settings(others) if run.config.get(key) is not None
        )
        sizes = [run.parameters.get(part, 0) for part in ("backbone", "circuit")]
        rows.append(
            [
                Cell(run.name),
                Cell(run.experiment),
                *(Cell(f"{size:,}", size) for size in sizes),
                Cell(f"{run.seconds:.0f}", run.seconds),
                Cell(settings),
            ]
        )
    header = ["run", "experiment", "backbone parameters", "circuit parameters", "seconds", "settings that differ"]
    return Table("Runs", header, rows, numeric={2, 3, 4})


def accuracy_tables(runs: Sequence[Run]) -> list[Table]:
    """For each metric, decoders of all runs by steps per block, in percent with 95 % intervals."""
    tables = []
    for metric in ACCURACIES:
        lines: dict[tuple[str, str], dict[float, Cell]] = {}
        for run in runs:
            for row in run.rows:
                if is_final(row, metric) and row.get("commit") is None:
                    line = lines.setdefault((run.name, series_label(row)), {})
                    line[row["steps_per_block"]] = Cell(_percent(row), row["value"], _samples_of(run, row))
        budgets = sorted({budget for line in lines.values() for budget in line})
        if lines:
            rows = [
                [Cell(run), Cell(label), *(line.get(budget, Cell("")) for budget in budgets)]
                for (run, label), line in lines.items()
            ]
            title = f"{metric.replace('_', ' ').capitalize()}, % by denoising steps per block"
            header = ["run", "decoder", *(f"{budget:g}" for budget in budgets)]
            tables.append(Table(title, header, rows, "With 95 % intervals.", set(range(2, len(header)))))
    return tables


def front_table(runs: Sequence[Run]) -> Table:
    """For each experiment and task of several runs, the settings that no other beats in accuracy and passes alike."""
    rows = []
    experiments = dict.fromkeys(run.experiment for run in runs)
    for ours in [chosen for name in experiments for chosen in by_task([r for r in runs if r.experiment == name])]:
        run_of = {id(row): run for run in ours for row in run.rows if is_final(row, "strict_accuracy") and "nfe" in row}
        if len({run.name for run in run_of.values()}) < 2:
            continue
        measured = [row for run in ours for row in run.rows if id(row) in run_of]
        for row in pareto_front(measured, "nfe"):
            run = run_of[id(row)]
            rows.append(
                [
                    Cell(run.experiment),
                    Cell(f"{row['nfe']:.1f}", row["nfe"]),
                    Cell(run.name),
                    Cell(series_label(row)),
                    Cell(_percent(row), row["value"], _samples_of(run, row)),
                    _seconds(row),
                ]
            )
    note = "Of all settings of an experiment's runs those that no other beats: at most as many passes, as accurate."
    header = ["experiment", "passes", "run", "decoder", "strict accuracy, %", "seconds per sample"]
    return Table("What none beats", header, rows, note, {1, 4, 5})


def _seconds(row: Row) -> Cell:
    seconds = row.get("seconds_per_sample")
    return Cell("") if seconds is None else Cell(f"{seconds:.3f}", seconds)


def comparison_table(comparisons: Sequence[Comparison]) -> Table:
    """Differences between coupled and factorized decoders, in percentage points."""
    rows = [
        [
            Cell(c.run),
            Cell(c.metric.replace("_", " ")),
            Cell(c.decoder),
            Cell(c.other),
            Cell(f"{c.steps_per_block}", c.steps_per_block),
            Cell(f"{100 * c.difference:+.1f} ({100 * c.low:+.1f} to {100 * c.high:+.1f})", c.difference),
            Cell(f"{c.p_value:.2g}", c.p_value),
            Cell(f"{c.problems}", c.problems),
            Cell(c.verdict),
        ]
        for c in comparisons
    ]
    note = (
        "The same problems, paired: percentage points with a 95 % bootstrap interval, and the p-value of McNemar's "
        "exact test. A decoder is called better or worse only where the interval excludes 0 and p is below 0.05."
    )
    header = ["run", "metric", "decoder", "less", "steps", "difference", "p", "problems", "the first is"]
    return Table("Coupled against factorized", header, rows, note, {4, 5, 6, 7})


def paper_table(found: Sequence[tuple[Published, Run, Row]]) -> Table:
    """The paper's numbers beside ours, in percent."""
    rows = [
        [
            Cell(number.table),
            Cell(number.metric.replace("_", " ")),
            Cell(series_label(row) if "decoder" in row else ""),
            Cell(f"{100 * number.value:.2f}", number.value),
            Cell(run.name),
            Cell(_percent(row), row["value"], _samples_of(run, row)),
        ]
        for number, run, row in found
    ]
    header = ["where", "metric", "decoder", "paper", "run", "ours"]
    return Table("Beside the paper (arXiv 2603.00045)", header, rows, numeric={3, 5})


def numbers_table(runs: Sequence[Run]) -> Table:
    """Every measured number of every run."""
    rows = [
        [
            Cell(run.name),
            Cell(row["name"]),
            Cell(row["split"]),
            Cell(", ".join(f"{key}={_setting(row[key])}" for key in row if key not in FIXED)),
            Cell(f"{row['value']:.5g}", row["value"], _samples_of(run, row)),
            Cell(f"{row['low']:.5g} to {row['high']:.5g}", row["low"]),
            Cell(row["unit"]),
            Cell(f"{row['n']}", row["n"]),
        ]
        for run in runs
        for row in run.rows
    ]
    header = ["run", "name", "split", "of", "value", "95 % interval", "unit", "n"]
    return Table("Every number", header, rows, numeric={4, 5, 7})


def csv_of(runs: Sequence[Run]) -> str:
    """Every measured number of every run, a column for each label that any row has."""
    labels = dict.fromkeys((*FIXED, *(label for run in runs for row in run.rows for label in row)))
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["run", "experiment", *labels])
    for run in runs:
        for row in run.rows:
            writer.writerow([run.name, run.experiment, *(_csv_value(row.get(label, "")) for label in labels)])
    return text.getvalue()


def markdown(table: Table) -> str:
    """A table as Markdown, under its title."""
    lines = [f"## {table.title}", ""]
    if table.note:
        lines += [table.note, ""]
    lines.append("| " + " | ".join(map(_escaped, table.header)) + " |")
    lines.append("|" + "|".join("--:" if i in table.numeric else "---" for i in range(len(table.header))) + "|")
    lines += ["| " + " | ".join(_escaped(cell.text) for cell in row) + " |" for row in table.rows]
    return "\n".join(lines) + "\n"


def _escaped(text: str) -> str:
    """Text that Markdown shows as it is, in one line of a table."""
    for character in "\\`*[]<>|":
        text = text.replace(character, f"\\{character}")
    return " ".join(text.split())


def _percent(row: Row) -> str:
    return f"{100 * row['value']:.1f} ({100 * row['low']:.1f}–{100 * row['high']:.1f})"


def _samples_of(run: Run, row: Row) -> tuple[str, Key] | None:
    key = sample_key(row)
    return (run.name, key) if key in run.samples else None


def _setting(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.5g}"
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _said(key: str, value: Any) -> str:
    """A setting as one reads it: of a part's class only its name."""
    if key.endswith("._target_"):
        return f"{key.removesuffix('._target_')}={str(value).rpartition('.')[2]}"
    return f"{key}={_setting(value)}"


def _csv_value(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, list | dict) else value
