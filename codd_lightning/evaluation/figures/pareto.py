"""What can be had for a cost: the settings that no other beats in accuracy and cost alike."""

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from codd_lightning.evaluation.figures.accuracy import cost_axis, final_rows
from codd_lightning.evaluation.figures.style import COLOURS, errors, legend_below, line_style, new_axes, styled
from codd_lightning.evaluation.rows import Row

ALL = "best of all"


def pareto_front(rows: Sequence[Row], cost: str) -> list[Row]:
    """The rows that none beats: no other is at least as accurate for at most the cost; cheapest first.

    Args:
        rows: of one metric, where more is better.
        cost: a label of theirs, where less is better.
    """
    front: list[Row] = []
    for row in sorted(rows, key=lambda row: (row[cost], -row["value"])):
        if not front or row["value"] > front[-1]["value"]:
            front.append(row)
    return front


@styled
def accuracy_pareto(
    rows_by_name: Mapping[str, Sequence[Row]], cost: str, metric: str = "strict_accuracy"
) -> Figure | None:
    """Accuracy in percent of every setting against its cost, with each run's front and that of all.

    None where fewer than two have rows.

    Args:
        rows_by_name: of several runs.
        cost: a label of the rows where less is better, one of `codd_lightning.evaluation.figures.COSTS`.
        metric: the name of the rows.
    """
    measured = {name: found for name, rows in rows_by_name.items() if (found := final_rows(rows, metric, cost))}
    if len(measured) < 2:
        return None
    figure, axes = new_axes(height=4.0)
    everything = [row for rows in measured.values() for row in rows]
    best = pareto_front(everything, cost)
    axes.step(
        [row[cost] for row in best],
        [100 * row["value"] for row in best],
        where="post",
        color=COLOURS[-1],
        alpha=0.18,
        linewidth=6,
        label=ALL,
    )
    for number, (name, rows) in enumerate(measured.items()):
        style = line_style(number)
        front = pareto_front(rows, cost)
        axes.errorbar(
            [row[cost] for row in front],
            [100 * row["value"] for row in front],
            yerr=errors(front, 100),
            label=name,
            elinewidth=0.9,
            **style,
        )
        others = [row for row in rows if row not in front]
        axes.plot(
            [row[cost] for row in others],
            [100 * row["value"] for row in others],
            **{**style, "linestyle": "none", "alpha": 0.45, "markersize": 3.5},
        )
    cost_axis(axes, cost, [row[cost] for row in everything])
    axes.set_ylim(-3, 103)
    axes.set_ylabel(f"{metric.replace('_', ' ')}, %")
    legend_below(figure, axes)
    return figure
