"""Likelihood of the true tokens by mask ratio."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from codd_lightning.evaluation.figures.style import COLOURS, errors, legend_below, line_style, new_axes, styled
from codd_lightning.evaluation.rows import Row

CURVES = {
    "nll_factorized": "one step, factorized",
    "nll_coupled": "one step, coupled",
    "nll_sequential": "sequential",
}


@styled
def misspecification_gap(rows: Sequence[Row]) -> Figure | None:
    """Paper Figure 1: NLL by mask ratio in one factorized step, in one coupled step, and token by token.

    The gap between the first and the last is shaded. Curves without rows are left out; None if all are.
    """
    figure, axes = new_axes()
    curves = {name: _by_mask_ratio(rows, name) for name in CURVES}
    if not any(curves.values()):
        return None
    for number, (name, measured) in enumerate(curves.items()):
        if measured:
            _line(axes, measured, CURVES[name], number)
    upper, lower = curves["nll_factorized"], curves["nll_sequential"]
    shared = sorted({_middle(row) for row in upper} & {_middle(row) for row in lower})
    if shared:
        axes.fill_between(
            shared,
            [row["value"] for row in upper if _middle(row) in shared],
            [row["value"] for row in lower if _middle(row) in shared],
            color=COLOURS[0],
            alpha=0.12,
            linewidth=0,
            label="misspecification gap",
        )
    _finish(figure, axes, "NLL, nats per masked token")
    return figure


@styled
def gain_by_mask_ratio(rows_by_run: dict[str, Sequence[Row]]) -> Figure | None:
    """Gain of the coupled over the factorized likelihood by mask ratio, a line for each run; None without rows."""
    figure, axes = new_axes()
    drawn = 0
    for label, rows in rows_by_run.items():
        measured = _by_mask_ratio(rows, "cll_gain")
        if measured:
            _line(axes, measured, label, drawn)
            drawn += 1
    if not drawn:
        return None
    axes.axhline(0, color="black", linewidth=0.8)
    _finish(figure, axes, "CLL gain, nats per masked token", legend=drawn > 1)
    return figure


def _by_mask_ratio(rows: Sequence[Row], name: str) -> list[Row]:
    chosen = [row for row in rows if row["name"] == name and isinstance(row.get("mask_ratio"), list)]
    return sorted(chosen, key=_middle)


def _middle(row: Row) -> float:
    low, high = row["mask_ratio"]
    return float(low + high) / 2


def _line(axes: Axes, measured: Sequence[Row], label: str, number: int) -> None:
    values = [row["value"] for row in measured]
    axes.errorbar(
        [_middle(row) for row in measured],
        values,
        yerr=errors(measured),
        label=label,
        elinewidth=0.9,
        **line_style(number),
    )


def _finish(figure: Figure, axes: Axes, quantity: str, legend: bool = True) -> None:
    axes.set_xlim(0, 1)
    axes.set_xlabel("mask ratio of the block")
    axes.set_ylabel(quantity)
    axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
    if legend:
        legend_below(figure, axes)
