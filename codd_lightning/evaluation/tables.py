"""Tables for the console, from rows."""

import io
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from codd_lightning.evaluation.rows import Row, series_label


def accuracy_table(rows: Sequence[Row], metric: str = "strict_accuracy", title: str | None = None) -> Table:
    """Decoders by step budget, in percent with 95 % intervals; below them commit rules, by what they cost."""
    accuracies = [row for row in rows if row["name"] == metric]
    measured = [row for row in accuracies if row.get("commit") is None]
    by_rule = [row for row in accuracies if row.get("commit") is not None]
    budgets = sorted({row["steps_per_block"] for row in measured})
    table = Table(title=title or f"{metric.replace('_', ' ')}, % by steps per block")
    table.add_column("decoder")
    for budget in budgets:
        table.add_column(str(budget), justify="right")
    if by_rule:
        table.add_column("as many as its commit rule takes", justify="right")
    for label in dict.fromkeys(series_label(row) for row in measured):
        cells = {row["steps_per_block"]: percent(row) for row in measured if series_label(row) == label}
        table.add_row(label, *(cells.get(budget, "") for budget in budgets))
    for row in by_rule:
        table.add_row(series_label(row), *[""] * len(budgets), f"{percent(row)} in {row['nfe']:.1f} passes")
    return table


def likelihood_table(rows: Sequence[Row], title: str | None = None) -> Table:
    """Likelihoods by mask ratio, in nats per masked token with 95 % intervals."""
    measured = [row for row in rows if "mask_ratio" in row]
    places = sorted({tuple(row["mask_ratio"]) for row in measured})
    table = Table(title=title or "nats per masked token, by masked share of the block")
    table.add_column("")
    for low, high in places:
        table.add_column(f"{low:.2f}–{high:.2f}", justify="right")
    for name in dict.fromkeys(row["name"] for row in measured):
        cells = {
            tuple(row["mask_ratio"]): f"{row['value']:z.3f} ({row['low']:z.3f} to {row['high']:z.3f})"
            for row in measured
            if row["name"] == name
        }
        table.add_row(name, *(cells.get(place, "") for place in places))
    return table


def percent(row: Row) -> str:
    """A fraction with its interval, in percent."""
    return f"{100 * row['value']:.1f} ({100 * row['low']:.1f}–{100 * row['high']:.1f})"


def render(table: Table) -> str:
    """A table as text, as wide as it needs to be."""
    console = Console(width=200, file=io.StringIO(), record=True)
    console.print(table)
    return console.export_text().rstrip()
