"""What circuits leave of a barrier that is known in closed form, by their size and learning rule."""

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from codd_lightning.evaluation.figures.style import errors, legend_below, line_style, new_axes, styled
from codd_lightning.evaluation.rows import Row

QUANTITIES = {"nats_left": "nats left per problem", "one_step_right": "one step right, probability"}


@dataclass(frozen=True)
class Learnt:
    """The barrier rows of one trained circuit.

    Attributes:
        num_states: of the circuit.
        rule: how it was learnt.
        rows: its results.
    """

    num_states: int
    rule: str
    rows: Sequence[Row]


@styled
def barrier_by_states(circuits: Sequence[Learnt], name: str, sufficient: int | None = None) -> Figure | None:
    """Nats left, or the probability that one step is right, against the number of states, a line for each rule.

    Args:
        circuits: trained on the same task.
        name: of the rows, one of `QUANTITIES`.
        sufficient: the smallest number of states that can be exact, marked where it is known.

    Returns:
        None if no row has the name.
    """
    by_rule: dict[str, list[tuple[int, Row]]] = {}
    factorized = None
    for circuit in circuits:
        for row in circuit.rows:
            if row["name"] != name:
                continue
            if row.get("head") == "factorized":
                factorized = row["value"]
            else:
                by_rule.setdefault(circuit.rule, []).append((circuit.num_states, row))
    if not by_rule:
        return None
    figure, axes = new_axes()
    for number, (rule, measured) in enumerate(sorted(by_rule.items())):
        measured.sort(key=lambda pair: pair[0])
        states = [pair[0] for pair in measured]
        values = [pair[1]["value"] for pair in measured]
        axes.errorbar(
            states, values, yerr=errors([row for _, row in measured]), label=rule, elinewidth=0.9, **line_style(number)
        )
    if factorized is not None:
        axes.axhline(factorized, color="#666666", linewidth=1, linestyle=(0, (1, 1)), label="factorized")
    if sufficient is not None:
        axes.axvline(
            sufficient, color="black", linewidth=1, linestyle=(0, (5, 3)), label=f"{sufficient} states suffice"
        )
    axes.set_xscale("log", base=2)
    sizes = sorted({circuit.num_states for circuit in circuits})
    axes.xaxis.set_major_locator(FixedLocator(_apart(sizes)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("states of the circuit")
    axes.set_ylabel(QUANTITIES[name])
    axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
    legend_below(figure, axes)
    return figure


def _apart(sizes: Sequence[int]) -> list[float]:
    """The sizes that have room for a tick label each: a neighbour less than an eighth larger has none."""
    ticks: list[float] = []
    for size in sizes:
        if not ticks or size > 1.125 * ticks[-1]:
            ticks.append(float(size))
    return ticks
