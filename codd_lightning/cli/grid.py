"""`codd train -m`: every combination of comma-separated overrides, through Hydra's sweeper and launcher."""

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra import initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig
from rich.table import Table

from codd_lightning.cli.compose import CONFIG_MODULE, CONFIG_NAME, check, compose_experiment, experiment_overrides
from codd_lightning.cli.failure import report_error
from codd_lightning.cli.ranks import start
from codd_lightning.cli.run_folder import holds_finished
from codd_lightning.errors import UserError
from codd_lightning.evaluation import decoder_label, render

# Of the rows of a cell, these are compared; the factorized decoder is the same in most.
ACCURACY = "strict_accuracy"
GAIN = "cll_gain"
BARRIER = ("nats_left", "one_step_right")


def run_grid(experiment: str, overrides: Sequence[str]) -> int:
    """Runs one cell after another, each in a folder of its own under one for the grid.

    A cell that fails does not stop the others. Returns the worst exit status of the cells.

    Raises:
        UserError: a cell's configuration is wrong; before any cell has started.
    """
    overrides = [*_sweeps_of(experiment, overrides), *overrides]
    parsed = _parse(overrides)
    for override in parsed:
        if override.key_or_group.startswith("hydra.sweep") or (
            override.key_or_group == "output_dir" and override.is_sweep_override()
        ):
            raise UserError(f"{override.input_line}: a grid has one folder: give one output_dir")
    cells = grid_cells(overrides)
    if len({tuple(cell) for cell in cells}) < len(cells):
        raise UserError("the grid names one cell twice: leave out repeated values")
    for cell in cells:
        config = compose_experiment(experiment, cell)
    parent = config.output_dir or f"outputs/{config.experiment_name}/${{now:%Y-%m-%d_%H-%M-%S}}"
    named_by = [override.key_or_group for override in parsed if override.is_sweep_override()]
    named_for_all = {override.key_or_group for override in parsed} - set(named_by)
    excluded = ",".join(["experiment", "experiment_name", "output_dir", *sorted(named_for_all)])
    with experiment_overrides(experiment) as chosen, initialize_config_module(CONFIG_MODULE, version_base="1.3"):
        hydra = GlobalHydra.instance().hydra
        assert hydra is not None, "initialised by the line before"
        try:
            batches = hydra.multirun(
                CONFIG_NAME,
                _cell,
                [
                    *chosen,
                    *overrides,
                    "hydra/job_logging=none",
                    "hydra/hydra_logging=none",
                    "hydra.sweeper.params=null",  # they are among the overrides by now
                    f"hydra.sweep.dir={parent}",
                    "hydra.sweep.subdir=${hydra.job.override_dirname}" if named_by else "hydra.sweep.subdir=run",
                    f"hydra.job.config.override_dirname.exclude_keys=[{excluded}]",
                ],
            )
        except OSError as error:
            raise UserError(f"output_dir={parent} cannot hold the grid: {error.strerror}") from None
    done = [job.return_value for batch in batches for job in batch]
    _compare(done)
    return max(status for _, status in done)


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


def _cell(config: DictConfig) -> tuple[str, int]:
    """One cell, unless it was finished before; returns its folder and exit status."""
    config.output_dir = HydraConfig.get().runtime.output_dir
    if holds_finished(config) and not config.overwrite:
        print(f"{config.output_dir}: finished before")
        return config.output_dir, 0
    try:
        check(config)
        start(config, HydraConfig.get().overrides.task)
    except Exception as error:
        return config.output_dir, report_error(error)
    return config.output_dir, 0


def _compare(cells: Sequence[tuple[str, int]]) -> None:
    """Prints what the cells reached, side by side, and how to see more."""
    parent = Path(cells[0][0]).parent
    measured = {folder: _headline(Path(folder)) for folder, status in cells if status == 0}
    columns = list(dict.fromkeys(name for values in measured.values() for name in values))
    table = Table(title=f"{len(cells)} cells under {parent}", title_justify="left")
    table.add_column("cell", no_wrap=True)
    for column in columns:
        table.add_column(column, justify="right")
    for folder, status in cells:
        values = measured.get(folder, {})
        outcome = [values.get(column, "") for column in columns] if status == 0 else ["failed"]
        table.add_row(Path(folder).name, *outcome)
    print(render(table))
    print(f"next:\n  tensorboard --logdir {parent}")


def _headline(folder: Path) -> dict[str, str]:
    """The compared figures of one cell, by what they are of."""
    rows: list[dict[str, Any]] = json.loads((folder / "results.json").read_text())["metrics"]
    figures = {}
    for row in rows:
        if row["name"] == ACCURACY and row["decoder"] != "factorized":
            figures[f"{decoder_label(row)} @{row['steps_per_block']}"] = f"{100 * row['value']:.1f}"
        elif row["name"] in BARRIER and row["head"] != "factorized":
            figures[row["name"].replace("_", " ")] = f"{row['value']:.4f}"
        elif row["name"] == GAIN:
            figures["gain {:g}–{:g}".format(*row["mask_ratio"])] = f"{row['value']:.3f}"
    return figures
