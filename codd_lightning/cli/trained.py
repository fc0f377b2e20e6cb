"""An experiment whose backbone and circuit have learnt already: what is measured, tuned and shown."""

from pathlib import Path

import lightning as L
from omegaconf import DictConfig

from codd_lightning.backbones import device_of
from codd_lightning.cli.build import Experiment, build
from codd_lightning.cli.console import quiet_libraries
from codd_lightning.cli.feasible import require_feasible
from codd_lightning.cli.finished_run import TRAINED, FinishedRun
from codd_lightning.cli.processes import Processes
from codd_lightning.errors import UserError

UNTRAINED_BACKBONE = "codd_lightning.backbones.new_backbone"
WITHOUT_PARAMETERS = "codd_lightning.circuits.Factorized"


def open_trained(config: DictConfig, processes: Processes) -> tuple[FinishedRun | None, DictConfig, Experiment]:
    """The finished run in `output_dir`, if there is one; the configuration with what it has trained; its objects.

    Without one, backbone and circuit are those of the configuration, and must be trained ones.

    Raises:
        UserError: there is nothing trained, or the folder holds a run of something else.
    """
    quiet_libraries()
    L.seed_everything(config.seed, verbose=False)
    given = Path(config.output_dir)
    run = FinishedRun.at(given)
    if run is not None:
        run.require_same(config)
    trained = config if run is None else run.lend(config)
    _require_trained(trained, given)
    if processes.size > 1 and trained.backbone.get("device") == "cuda":
        trained.backbone.device = f"cuda:{processes.local_rank}"
    experiment = build(trained)
    experiment.module.to(device_of(experiment.backbone))  # no trainer does it here
    require_feasible(trained, experiment, training=False)
    return run, trained, experiment


def _require_trained(config: DictConfig, folder: Path) -> None:
    circuit, backbone = config.circuit._target_, config.backbone._target_
    there = "" if folder.exists() else ", and there is no folder"
    mend = "give output_dir=FOLDER of a finished run, or {0}=pretrained {0}.path_or_repo=FOLDER"
    if circuit not in (None, WITHOUT_PARAMETERS, TRAINED["circuit"]):
        name = circuit.rsplit(".", maxsplit=1)[-1].lower()
        raise UserError(
            f"circuit={name} has learnt nothing yet (no finished run in {folder}{there}): {mend.format('circuit')}"
        )
    if backbone == UNTRAINED_BACKBONE:
        raise UserError(
            f"backbone=llama_scratch has learnt nothing yet (no finished run in {folder}{there}): "
            f"{mend.format('backbone')}"
        )
