"""Heat maps: γ by τ, and any grid over two settings."""

from collections.abc import Mapping, Sequence

import matplotlib
from matplotlib.figure import Figure

from codd_lightning.evaluation.figures.style import SEQUENTIAL, new_axes, styled
from codd_lightning.evaluation.rows import Row


@styled
def gamma_tau(rows: Sequence[Row]) -> Figure | None:
    """Strict accuracy of one decoder on held-out data over γ and τ, in percent; None if no row is of such a grid.

    Of several step budgets the mean is drawn: what `codd tune` chooses by.
    """
    budgets: set[float] = set()
    found: dict[tuple[object, object], list[float]] = {}
    for row in rows:
        if row["name"] == "strict_accuracy" and row["split"] != "test" and {"gamma", "tau"} <= set(row):
            budgets.add(row.get("steps_per_block", 0))
            found.setdefault((row["gamma"], row["tau"]), []).append(100 * row["value"])
    if not found:
        return None
    values = {pair: sum(accuracies) / len(accuracies) for pair, accuracies in found.items()}
    steps = ", ".join(f"{budget:g}" for budget in sorted(budgets))
    return heat_map(values, "activation threshold γ", "sharpening τ", f"strict accuracy, %\n(steps per block: {steps})")


@styled
def heat_map(values: Mapping[tuple[object, object], float], vertical: str, horizontal: str, quantity: str) -> Figure:
    """A value for each pair of settings, written into its cell; cells without one stay white.

    Args:
        values: by (vertical, horizontal) setting.
        vertical, horizontal: what the axes say.
        quantity: what is drawn, with its unit.
    """
    down = sorted({pair[0] for pair in values}, key=_order)
    across = sorted({pair[1] for pair in values}, key=_order)
    grid = [[values.get((v, h), float("nan")) for h in across] for v in down]
    longest_down, longest_across = (max(len(f"{setting}") for setting in axis) for axis in (down, across))
    column = max(0.75, 0.095 * longest_across)  # inches: the labels below fit beside each other
    width = max(4.2, 2.0 + 0.07 * longest_down + column * len(across))
    figure, axes = new_axes(height=1.4 + 0.42 * len(down), width=width)
    image = axes.pcolormesh(grid, cmap=matplotlib.colormaps[SEQUENTIAL], edgecolors="white", linewidth=1)
    axes.set_xticks([i + 0.5 for i in range(len(across))], [f"{setting}" for setting in across])
    axes.set_yticks([i + 0.5 for i in range(len(down))], [f"{setting}" for setting in down])
    axes.set_xlabel(horizontal)
    axes.set_ylabel(vertical)
    axes.grid(False)
    lowest, highest = min(values.values()), max(values.values())
    for i, line in enumerate(grid):
        for j, value in enumerate(line):
            if (down[i], across[j]) in values:
                bright = value > (lowest + highest) / 2
                colour = "black" if bright else "white"
                axes.text(j + 0.5, i + 0.5, f"{value:.3g}", ha="center", va="center", color=colour)
    bar = figure.colorbar(image, ax=axes, pad=0.03)
    bar.set_label(quantity)
    assert bar.solids is not None, "it belongs to a mesh"
    bar.solids.set(rasterized=False, edgecolor="face")  # vectors here as well
    return figure


def _order(setting: object) -> tuple[int, float, str]:
    """Numbers by size, then words."""
    if isinstance(setting, int | float):
        return 0, float(setting), ""
    return 1, 0.0, str(setting)
