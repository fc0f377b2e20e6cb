"""An experiment whose backbone and circuit have learnt already: what is measured, tuned and shown."""

import logging
import re
from collections.abc import Sequence
from pathlib import Path

import lightning as L
from omegaconf import DictConfig

from codd_lightning.backbones import device_of
from codd_lightning.cli.build import Experiment, build
from codd_lightning.cli.compose import without_effect
from codd_lightning.cli.console import log_to, quiet_libraries
from codd_lightning.cli.feasible import require_feasible
from codd_lightning.cli.finished_run import TRAINED, FinishedRun
from codd_lightning.cli.manifest import Manifest, fingerprint
from codd_lightning.cli.measure import count_parameters
from codd_lightning.cli.processes import Processes
from codd_lightning.cli.run_folder import RunFolder
from codd_lightning.errors import UserError
from codd_lightning.evaluation import Row, write_results

log = logging.getLogger("codd_lightning")

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
    asked = trained.copy()
    asked.cache.path = None  # evidence is for training; what is measured comes from the backbone itself
    experiment = build(asked)
    experiment.module.to(device_of(experiment.backbone))  # no trainer does it here
    require_feasible(trained, experiment, training=False)
    return run, trained, experiment


def begin(config: DictConfig, run: FinishedRun | None, experiment: Experiment, folder: RunFolder) -> Manifest | None:
    """Opens the log of a folder that is measured into, and the manifest of one that holds no run yet."""
    log_to(folder.log_file)
    for option, value in without_effect(config).items():
        log.warning("%s=%s has no effect here", option, value)
    if config.cache.path is not None:
        log.warning("cache.path=%s has no effect here: the backbone is asked itself", config.cache.path)
    if run is not None:
        return None
    manifest = Manifest(folder, config)
    manifest.update(fingerprints={"backbone": fingerprint(experiment.backbone)})
    return manifest


def keep(
    config: DictConfig,
    run: FinishedRun | None,
    experiment: Experiment,
    folder: RunFolder,
    manifest: Manifest | None,
    rows: Sequence[Row],
    split: str,
) -> None:
    """Writes what was measured, beside what a finished run has that was not measured again."""
    seconds = 0.0
    if manifest is not None:
        manifest.update()
        seconds = manifest.seconds
    if run is not None:
        run.note_measurement(config)
        rows = [*run.rows_beside(rows, split), *rows]
        seconds = run.results["seconds"]
    write_results(
        folder.results_file,
        experiment=config.experiment_name,
        seconds=seconds,
        parameters=count_parameters(experiment),
        metrics=rows,
    )
    folder.finish()


def _require_trained(config: DictConfig, folder: Path) -> None:
    circuit, backbone = config.circuit._target_, config.backbone._target_
    there = "" if folder.exists() else ", and there is no folder"
    mend = "give output_dir=FOLDER of a finished run, or {0}=pretrained {0}.path_or_repo=FOLDER"
    if circuit not in (None, WITHOUT_PARAMETERS, TRAINED["circuit"]):
        name = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", circuit.rsplit(".", maxsplit=1)[-1]).lower()  # as the group calls it
        raise UserError(
            f"circuit={name} has learnt nothing yet (no finished run in {folder}{there}): {mend.format('circuit')}"
        )
    if backbone == UNTRAINED_BACKBONE:
        raise UserError(
            f"backbone=llama_scratch has learnt nothing yet (no finished run in {folder}{there}): "
            f"{mend.format('backbone')}"
        )
