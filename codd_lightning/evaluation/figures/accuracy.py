"""Accuracy and latency of decoders, against what they cost."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

from codd_lightning.evaluation.figures.style import errors, legend_below, line_style, new_axes, styled
from codd_lightning.evaluation.rows import Row, curve_label, is_final

# What accuracy is drawn against, and what the axis says.
COSTS = {
    "steps_per_block": "denoising steps per block",
    "nfe": "backbone forward passes per sample (NFE)",
    "seconds_per_sample": "seconds per sample",
    "tpf": "tokens per forward pass (TPF)",
}


@styled
def accuracy_by(rows: Sequence[Row], cost: str, metric: str = "strict_accuracy") -> Figure | None:
    """Accuracy in percent with 95 % intervals against a cost, a line for each decoder; None if no row has both.

    Args:
        rows: of one run.
        cost: a label of the rows, one of `COSTS`.
        metric: the name of the rows.
    """
    series = _series(rows, metric, cost)
    if not series:
        return None
    figure, axes = new_axes()
    for number, (label, measured) in enumerate(series.items()):
        # decoders measured at the same number of steps stand beside each other, not on top
        shift = 2 ** (0.07 * (number - (len(series) - 1) / 2)) if cost == "steps_per_block" else 1.0
        axes.errorbar(
            [row[cost] * shift for row in measured],
            [100 * row["value"] for row in measured],
            yerr=errors(measured, 100),
            label=label,
            elinewidth=0.9,
            **line_style(number),
        )
    cost_axis(axes, cost, [row[cost] for measured in series.values() for row in measured])
    axes.set_ylim(-3, 103)
    axes.set_ylabel(f"{metric.replace('_', ' ')}, %")
    legend_below(figure, axes)
    return figure


@styled
def latency(rows: Sequence[Row], metric: str = "strict_accuracy") -> Figure | None:
    """Seconds per sample against steps per block, a line for each decoder; None if no row has both."""
    series = _series([row for row in rows if _positive(row, "seconds_per_sample")], metric, "steps_per_block")
    if not series:
        return None
    figure, axes = new_axes()
    for number, (label, measured) in enumerate(series.items()):
        seconds = [row["seconds_per_sample"] for row in measured]
        axes.plot([row["steps_per_block"] for row in measured], seconds, label=label, **line_style(number))
    cost_axis(axes, "steps_per_block", [row["steps_per_block"] for measured in series.values() for row in measured])
    axes.set_ylim(bottom=0)
    axes.set_ylabel("seconds per sample")
    legend_below(figure, axes)
    return figure


def final_rows(rows: Sequence[Row], metric: str, cost: str) -> list[Row]:
    """Final rows of a metric that have a cost; steps say nothing of what a commit rule costs."""
    by_steps = cost == "steps_per_block"
    chosen = [row for row in rows if is_final(row, metric) and _positive(row, cost)]
    return [row for row in chosen if not (by_steps and row.get("commit") is not None)]


def _series(rows: Sequence[Row], metric: str, cost: str) -> dict[str, list[Row]]:
    """Final rows of a metric by decoder, cheapest first."""
    series: dict[str, list[Row]] = {}
    for row in final_rows(rows, metric, cost):
        series.setdefault(curve_label(row), []).append(row)
    return {label: sorted(measured, key=lambda row: row[cost]) for label, measured in series.items()}


def _positive(row: Row, label: str) -> bool:
    value = row.get(label)
    return isinstance(value, int | float) and value > 0


def cost_axis(axes: Axes, cost: str, values: Sequence[float]) -> None:
    """The logarithmic axis of a cost, of which there are these values."""
    axes.set_xlabel(COSTS[cost])
    axes.set_xscale("log", base=10 if cost == "seconds_per_sample" else 2)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    if cost == "steps_per_block" and len(set(values)) <= 10:
        axes.xaxis.set_major_locator(FixedLocator(sorted(set(values))))
    elif cost == "seconds_per_sample":
        few = max(values) / min(values) < 300
        axes.xaxis.set_major_locator(LogLocator(10, subs=(1, 2, 5) if few else (1,)))
