"""Which figures a report has: every one that its runs have rows for."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath

from matplotlib.figure import Figure

from codd_lightning.evaluation.figures import (
    COSTS,
    QUANTITIES,
    Learnt,
    accuracy_by,
    accuracy_pareto,
    barrier_by_states,
    gain_by_mask_ratio,
    gamma_tau,
    heat_map,
    latency,
    misspecification_gap,
)
from codd_lightning.evaluation.report.runs import Run, by_task, differing_settings
from codd_lightning.evaluation.rows import Row, decoder_label, is_final, series_label

MOST_ITEMS = 32  # of a list task by far; more are somebody's mistake, and a number without end
MOST_LINES = 7  # in one figure; more colours than that are not told apart


@dataclass(frozen=True)
class Drawing:
    """A figure with its file's name and its caption."""

    name: str
    caption: str
    figure: Figure


def draw(runs: Sequence[Run]) -> list[Drawing]:
    """All figures: of each run, of runs of one experiment together, of grids, and of known barriers."""
    found = [*(drawing for run in runs for drawing in _of_run(run)), *_of_several(runs)]
    names: dict[str, int] = {}
    unique = []
    for drawing in found:
        names[drawing.name] = names.get(drawing.name, 0) + 1
        suffix = f"_{names[drawing.name]}" if names[drawing.name] > 1 else ""
        unique.append(Drawing(drawing.name + suffix, drawing.caption, drawing.figure))
    return unique


def _of_run(run: Run) -> Iterator[Drawing]:
    metrics = [m for m in ("strict_accuracy", "exact_match") if any(row["name"] == m for row in run.rows)]
    for metric in metrics:
        said = metric.replace("_", " ").capitalize()
        for cost, axis in COSTS.items():
            figure = accuracy_by(run.rows, cost, metric)
            if figure is not None:
                caption = f"{run.name}: {said} by {axis}, with 95 % intervals."
                yield Drawing(_file_name(run.name, f"{metric}_by_{cost}"), caption, figure)
        figure = latency(run.rows, metric)
        if figure is not None:
            yield Drawing(_file_name(run.name, "latency"), f"{run.name}: seconds per sample.", figure)
    for decoder in dict.fromkeys(decoder_label(row) for row in run.rows if "decoder" in row):
        figure = gamma_tau([row for row in run.rows if "decoder" in row and decoder_label(row) == decoder])
        if figure is not None:
            caption = f"{run.name}: strict accuracy of {decoder} on held-out data over γ and τ."
            yield Drawing(_file_name(run.name, f"gamma_tau_{decoder}"), caption, figure)
    figure = misspecification_gap(run.rows)
    if figure is not None:
        caption = f"{run.name}: likelihood of the true tokens by mask ratio, with 95 % intervals."
        yield Drawing(_file_name(run.name, "misspecification_gap"), caption, figure)


def _of_several(runs: Sequence[Run]) -> Iterator[Drawing]:
    for experiment in dict.fromkeys(run.experiment for run in runs):
        ours = [run for run in runs if run.experiment == experiment]
        with_gain = [run for run in ours if any(row["name"] == "cll_gain" for row in run.rows)]
        for start in range(0, len(with_gain), MOST_LINES):
            chosen = with_gain[start : start + MOST_LINES]
            figure = gain_by_mask_ratio({_short(run.name): run.rows for run in chosen})
            if figure is not None:
                caption = f"{experiment}: gain of the coupled likelihood by mask ratio, with 95 % intervals."
                yield Drawing(_file_name(experiment, "gain_by_mask_ratio"), caption, figure)
        yield from _barriers(experiment, ours)
        yield from _fronts(experiment, ours)
    for folder in dict.fromkeys(PurePath(run.name).parent for run in runs):
        yield from _grid(f"{folder}", [run for run in runs if PurePath(run.name).parent == folder])


def _barriers(experiment: str, runs: Sequence[Run]) -> Iterator[Drawing]:
    """A figure for each task: circuits of one task share a figure, whatever their size and rule."""
    with_states = [run for run in runs if isinstance(run.config.get("circuit.num_states"), int)]
    for chosen in by_task(with_states):
        learnt = [Learnt(run.config["circuit.num_states"], _rule(run), run.rows) for run in chosen]
        sufficient = _sufficient(chosen[0].config)
        for name, quantity in QUANTITIES.items():
            figure = barrier_by_states(learnt, name, sufficient)
            if figure is not None:
                caption = f"{experiment}: {quantity} by the circuit's states and learning rule."
                yield Drawing(_file_name(experiment, f"{name}_by_states"), caption, figure)


def _fronts(experiment: str, runs: Sequence[Run]) -> Iterator[Drawing]:
    """Accuracy against cost, a figure for each task, where its runs differ in the circuit."""
    for chosen in by_task(runs):
        named = {str(run.config.get("circuit._target_")).rpartition(".")[2]: run.rows for run in chosen}
        if len(named) != len(chosen) or len(named) > MOST_LINES:
            continue
        for cost in ("nfe", "seconds_per_sample"):
            figure = accuracy_pareto(named, cost)
            if figure is not None:
                caption = f"{experiment}: every setting of each circuit by {COSTS[cost]}, and what none beats."
                yield Drawing(_file_name(experiment, f"front_by_{cost}"), caption, figure)


def _sufficient(config: Mapping[str, object]) -> int | None:
    """States of the smallest HMM that is exact, where the closed form gives it (`circuits/closed_form.py`)."""
    items = config.get("data.task.items")
    if config.get("data.task.kind") != "permutation" or config.get("data.task.varies") or not isinstance(items, int):
        return None
    if not 1 <= items <= MOST_ITEMS:
        return None
    return items * 2 ** (items - 1) + 1


def _grid(folder: str, runs: Sequence[Run]) -> Iterator[Drawing]:
    """Heat maps of runs in one folder that differ in two settings."""
    axes = [key for key in differing_settings(runs) if not key.endswith("seed")]
    named = _two_axes(runs, axes)
    if named is None:
        return
    vertical, horizontal = named
    heads: dict[str, dict[tuple[object, object], list[float]]] = {}
    for run in runs:
        for quantity, value in _headlines(run.rows):
            pair = _value(run, vertical), _value(run, horizontal)
            heads.setdefault(quantity, {}).setdefault(pair, []).append(value)
    for quantity, found in heads.items():
        means = {pair: sum(values) / len(values) for pair, values in found.items()}
        seeds = sorted({len(values) for values in found.values()})  # fewer where a cell failed
        of_seeds = f"\n(mean of {'–'.join(map(str, seeds))} seeds)" if seeds != [1] else ""
        figure = heat_map(means, vertical, horizontal, quantity + of_seeds)
        yield Drawing(_file_name(folder, f"grid_{quantity}"), f"{folder}: {quantity}.", figure)


def _two_axes(runs: Sequence[Run], axes: Sequence[str]) -> tuple[str, str] | None:
    """The two settings that a grid varies beside its seed; an optimizer's own settings count as the optimizer."""
    groups = list(dict.fromkeys("optimizer" if axis.startswith("optimizer.") else axis for axis in axes))
    if len(groups) != 2:
        return None
    pairs = {tuple(str(_value(run, group)) for group in groups) for run in runs}
    cells = {tuple(str(_value(run, key)) for key in (*groups, "seed")) for run in runs}
    longer = max(len({pair[i] for pair in pairs}) for i in (0, 1))
    is_grid = len(cells) == len(runs) and len(pairs) > longer  # no run twice, and more than a row or a diagonal
    return (groups[0], groups[1]) if is_grid else None


def _value(run: Run, axis: str) -> object:
    value = _rule(run) if axis == "optimizer" else run.config.get(axis)
    return value if isinstance(value, int | float | str) else str(value)


def _rule(run: Run) -> str:
    """The learning rule of a run, by the last part of its class's name."""
    return str(run.config.get("optimizer._target_", "unknown")).rpartition(".")[2]


def _headlines(rows: Sequence[Row]) -> Iterator[tuple[str, float]]:
    """The numbers of a run that a grid is about: of the coupled decoders at their smallest budget."""
    for row in rows:
        if row["name"] in QUANTITIES and row.get("head") not in (None, "factorized"):
            yield QUANTITIES[row["name"]], row["value"]
    coupled = [row for row in rows if is_final(row, "strict_accuracy") and row["decoder"] != "factorized"]
    fewest = min((row["steps_per_block"] for row in coupled), default=0)
    for row in coupled:
        if row["steps_per_block"] == fewest:
            yield f"strict accuracy of {series_label(row)} at {fewest:g} steps, %", 100 * row["value"]
    gains = [row for row in rows if row["name"] == "cll_gain" and "mask_ratio" in row]
    if gains:
        low, high = max(row["mask_ratio"] for row in gains)
        value = max(gains, key=lambda row: row["mask_ratio"])["value"]
        yield f"CLL gain at mask ratio {low:g}–{high:g}, nats per token", value


def _short(name: str) -> str:
    return name if len(name) <= 48 else f"…{name[-47:]}"


def _file_name(run: str, what: str) -> str:
    """A file's name that every system takes."""
    return re.sub(r"[^A-Za-z0-9._=-]+", "_", f"{run}_{what}").strip("._")[:120] or "figure"
