"""Reports: runs of a folder as tables, figures and a page."""

from collections.abc import Sequence
from pathlib import Path

from codd_lightning.evaluation.figures import write_figure
from codd_lightning.evaluation.report.comparisons import compare
from codd_lightning.evaluation.report.drawings import draw
from codd_lightning.evaluation.report.page import page
from codd_lightning.evaluation.report.paper import beside_ours, published
from codd_lightning.evaluation.report.runs import Run, collect
from codd_lightning.evaluation.report.tables import (
    Table,
    accuracy_tables,
    comparison_table,
    csv_of,
    front_table,
    markdown,
    numbers_table,
    paper_table,
    runs_table,
)

__all__ = ["Run", "collect", "write_report"]


def write_report(runs: Sequence[Run], folder: Path, *, html: bool) -> list[Path]:
    """Writes report.md, report.csv, figures/ and with `html` report.html into an empty folder; returns the paths."""
    tables = _tables(runs)
    drawings = draw(runs)
    title = f"Report of {len(runs)} run{'s' if len(runs) != 1 else ''}"
    (folder / "figures").mkdir()
    written = [path for drawing in drawings for path in write_figure(drawing.figure, folder / "figures", drawing.name)]
    figures = "".join(f"![{drawing.name}](figures/{drawing.name}.svg)\n\n" for drawing in drawings)
    texts = {
        "report.md": f"# {title}\n\n" + "\n".join(map(markdown, tables)) + f"\n## Figures\n\n{figures}",
        "report.csv": csv_of(runs),
    }
    if html:
        texts["report.html"] = page(runs, tables, drawings, title)
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    return [*(folder / name for name in texts), *written]


def _tables(runs: Sequence[Run]) -> list[Table]:
    """Those that have rows, the one of every number last."""
    found = [
        runs_table(runs),
        *accuracy_tables(runs),
        front_table(runs),
        comparison_table([comparison for run in runs for comparison in compare(run)]),
        paper_table(beside_ours(runs, published())),
        numbers_table(runs),
    ]
    return [table for table in found if table.rows]
