"""`codd train -m`: every combination of comma-separated overrides, where `hydra/launcher` says, and compared."""

import itertools
import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from rich.table import Table

from codd_lightning.cli.compose import compose_experiment
from codd_lightning.cli.launchers import LAUNCHERS, Cell, require_launcher, require_options
from codd_lightning.cli.world import require_lasting_folder
from codd_lightning.errors import UserError

# Of the rows of a cell, these are compared; the factorized decoder is the same in most.
ACCURACY = "strict_accuracy"
GAIN = "cll_gain"
BARRIER = ("nats_left", "one_step_right")
# By which cells are ranked, the first that all of them have.
KINDS = ("mean accuracy", "nats left", "mean gain")


@dataclass(frozen=True)
class Figure:
    """One compared number of a cell: of which kind, how good, and how it is shown."""

    kind: str
    merit: float
    text: str


def run_grid(experiment: str, overrides: Sequence[str]) -> int:
    """Runs every cell in a folder of its own under one for the grid.

    A cell that fails does not stop the others, and one that was finished before is not run again. Returns the worst
    exit status of the cells.

    Raises:
        UserError: a cell's configuration is wrong; before any cell has started.
    """
    require_launcher(overrides)
    of_hydra = [override for override in overrides if override.lstrip("+").startswith("hydra")]
    overrides = [*_sweeps_of(experiment, overrides), *(o for o in overrides if o not in of_hydra)]
    for override in of_hydra:
        if not override.lstrip("+").startswith(("hydra/launcher=", "hydra.launcher.")):
            raise UserError(f"{override}: a grid has one folder: give one output_dir, and of hydra only the launcher")
    hydra = compose_experiment(experiment, of_hydra, whole=True).hydra
    launcher = hydra.runtime.choices["hydra/launcher"]
    require_options(launcher, hydra.launcher)
    cells = make_cells(experiment, overrides)
    parent = cells[0].folder.parent
    try:
        parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"output_dir={parent} cannot hold the grid: {error.strerror}") from None
    waiting = [cell for cell in cells if cell.config.overwrite or not cell.finished]
    for cell in cells:
        if not any(cell is other for other in waiting):
            print(f"{cell.folder}: finished before")
    ended = LAUNCHERS[launcher](waiting, hydra.launcher) if waiting else []
    statuses = dict(zip([cell.folder for cell in waiting], ended, strict=True))
    _compare([(cell, statuses.get(cell.folder, 0)) for cell in cells])
    return max(statuses.values(), default=0)


def make_cells(experiment: str, overrides: Sequence[str]) -> list[Cell]:
    """Every cell of a grid, composed and checked, in a folder named by what differs.

    Raises:
        UserError: one of them is wrong, or named twice.
    """
    parsed = _parse(overrides)
    for override in parsed:
        if override.key_or_group == "output_dir" and override.is_sweep_override():
            raise UserError(f"{override.input_line}: a grid has one folder: give one output_dir")
    chosen = grid_cells(overrides)
    if len({tuple(cell) for cell in chosen}) < len(chosen):
        raise UserError("the grid names one cell twice: leave out repeated values")
    swept = [override.is_sweep_override() for override in parsed]
    now = datetime.now()
    cells = []
    for values in chosen:
        config = compose_experiment(experiment, values)
        parent = config.output_dir or f"outputs/{config.experiment_name}/{now:%Y-%m-%d_%H-%M-%S}"
        require_lasting_folder(config)
        name = ",".join(sorted(value for value, differs in zip(values, swept, strict=True) if differs)) or "run"
        config.output_dir = str(Path(parent) / name)
        cells.append(Cell(experiment, [value for value in values if not value.startswith("output_dir=")], config))
    from codd_lightning.cli.build import make  # imports torch, which no cell needs that does not compose

    for cell in cells:
        make(cell.config.optimizer, object, "optimizer")  # which of its options go together, it knows itself
    return cells


def _sweeps_of(experiment: str, overrides: Sequence[str]) -> list[str]:
    """The sweep that an experiment's file names, as far as the user's overrides do not set its keys."""
    config = compose_experiment(experiment, [], whole=True)
    given = {override.partition("=")[0] for override in overrides}
    params = config.hydra.sweeper.params or {}
    return [f"{key}={value}" for key, value in params.items() if key not in given]


def _parse(overrides: Sequence[str]) -> list[Override]:
    try:
        parsed = OverridesParser.create().parse_overrides(list(overrides))
        for override in parsed:
            if override.is_sweep_override():
                list(override.sweep_string_iterator())  # a glob would have to know its choices
        return parsed
    except HydraException as error:
        raise UserError(str(error).splitlines()[0]) from None


def grid_cells(overrides: Sequence[str]) -> list[list[str]]:
    """The overrides of every cell of a grid, none of them a sweep."""
    choices = [
        [f"{override.get_key_element()}={value}" for value in override.sweep_string_iterator()]
        if override.is_sweep_override()
        else [override.input_line or ""]
        for override in _parse(overrides)
    ]
    return [list(cell) for cell in itertools.product(*choices)]


def _compare(cells: Sequence[tuple[Cell, int]]) -> None:
    """Prints what the cells reached, side by side, which is best, and how to see more."""
    from codd_lightning.evaluation import render  # takes torch, which a wrong command line need not wait for

    parent = cells[0][0].folder.parent
    measured = {cell.folder: _figures(cell.folder) for cell, status in cells if status == 0}
    print(render(_side_by_side(parent, {cell.folder.name: measured.get(cell.folder) for cell, _ in cells})))
    print(f"next:\n  {shlex.join(['tensorboard', '--logdir', str(parent)])}")
    best = _best([(cell.overrides, measured[cell.folder]) for cell, status in cells if status == 0])
    if best is not None:
        print(f"best by {best[0]}, on the problems of the table:")
        print(f"  {shlex.join(['codd', 'train', cells[0][0].experiment, *best[1]])}")


def _side_by_side(parent: Path, measured: Mapping[str, Mapping[str, Figure] | None]) -> Table:
    """The figures of all cells, None where one failed, a line each or a column, whichever is less wide."""
    names = list(dict.fromkeys(name for figures in measured.values() for name in figures or {})) or [""]
    lines = [["", *names]]
    for cell, figures in measured.items():
        of_cell = ["failed" if figures is None else figures[name].text if name in figures else "" for name in names]
        lines.append([cell, *of_cell])
    lines = min(lines, [list(column) for column in zip(*lines, strict=True)], key=_width)
    table = Table(title=f"{len(measured)} cells under {parent}", title_justify="left")
    table.add_column(lines[0][0], no_wrap=True)
    for title in lines[0][1:]:
        table.add_column(title, justify="right", overflow="fold")
    for line in lines[1:]:
        table.add_row(*line)
    return table


def _width(lines: Sequence[Sequence[str]]) -> int:
    return sum(max(map(len, column)) for column in zip(*lines, strict=True))


def _figures(folder: Path) -> dict[str, Figure]:
    """The compared figures of one cell, by what they are of."""
    from codd_lightning.evaluation import decoder_label

    rows: list[dict[str, Any]] = json.loads((folder / "results.json").read_text())["metrics"]
    figures = {}
    for row in rows:
        name, value = row["name"], row["value"]
        if name == ACCURACY and row["decoder"] != "factorized":
            budget = f" @{row['steps_per_block']}" if row.get("commit") is None else ""  # which a rule decides itself
            label = f"{decoder_label(row)}{budget}"
            figures[label] = Figure("mean accuracy", value, f"{100 * value:.1f}")
        elif name in BARRIER and row["head"] != "factorized":
            merit = value if name == "one_step_right" else -value
            figures[name.replace("_", " ")] = Figure(name.replace("_", " "), merit, f"{value:.4f}")
        elif name == GAIN:
            figures["gain {:g}–{:g}".format(*row["mask_ratio"])] = Figure("mean gain", value, f"{value:z.3f}")
    return figures


def _best(cells: Sequence[tuple[Sequence[str], Mapping[str, Figure]]]) -> tuple[str, tuple[str, ...]] | None:
    """The one best setting by the first kind of figure that tells it, and that kind; None in a tie.

    Args:
        cells: overrides and figures of each; of cells that differ in their seed the mean counts.
    """
    settings: dict[tuple[str, ...], list[Figure]] = {}
    for overrides, figures in cells:
        setting = tuple(override for override in overrides if not override.startswith("seed="))
        settings.setdefault(setting, []).extend(figures.values())
    if len(settings) < 2:
        return None
    for kind in KINDS:
        merits = [[figure.merit for figure in figures if figure.kind == kind] for figures in settings.values()]
        if all(merits):
            means = [sum(of_setting) / len(of_setting) for of_setting in merits]
            if means.count(max(means)) == 1:
                return kind, list(settings)[means.index(max(means))]
    return None
