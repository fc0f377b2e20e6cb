"""One run: fit, export, measure on the test split, and say what to do next."""

import logging
from collections.abc import Sequence
from pathlib import Path

import lightning as L
from omegaconf import DictConfig

from codd_lightning.backbones import files_digest, save_backbone
from codd_lightning.circuits import save_circuit
from codd_lightning.cli.build import Experiment, build, comes_in_pieces, with_weights
from codd_lightning.cli.circuit_files import CARD_NAME
from codd_lightning.cli.compose import settings_of, without_effect
from codd_lightning.cli.console import log_to, quiet_libraries
from codd_lightning.cli.failure import disk_is_full
from codd_lightning.cli.feasible import require_feasible
from codd_lightning.cli.manifest import Manifest, fingerprint
from codd_lightning.cli.measure import count_parameters, measure, warn_of_dropped
from codd_lightning.cli.model_card import circuit_card
from codd_lightning.cli.next_steps import say_goodbye
from codd_lightning.cli.processes import Processes
from codd_lightning.cli.run_folder import RunFolder, write_text
from codd_lightning.cli.training import Training
from codd_lightning.errors import UserError
from codd_lightning.evaluation import row, write_results
from codd_lightning.modules import JointModule
from codd_lightning.tasks import SPLITS

log = logging.getLogger("codd_lightning")


def run(config: DictConfig, local_rank: int | None = None, overrides: Sequence[str] = ()) -> Path:
    """One run from start to results.json, or one rank's part of it; returns its folder.

    Args:
        config: of the run.
        local_rank: of this process, where `cli.ranks` started it.
        overrides: those of the command line that it was composed with.
    """
    quiet_libraries()
    L.seed_everything(config.seed, verbose=False)
    experiment = build(config, in_pieces=comes_in_pieces(config))  # what does not fit fails here, unwritten
    require_feasible(config, experiment)
    folder = RunFolder(config)
    training = Training(config, experiment, folder.path, launched=local_rank is not None)
    try:
        training.join(folder)
        log_to(folder.log_file, speaks=training.leads)
        for option, value in without_effect(config).items():
            log.warning("%s=%s has no effect here", option, value)
        warn_of_dropped(experiment, SPLITS)
        manifest = None
        if training.leads:
            manifest = Manifest(folder, config)
            manifest.update(fingerprints={"backbone": _weights_of(config, experiment)})
        parameters = count_parameters(experiment)
        log.info(
            "%s → %s  (backbone %s parameters, circuit %s)",
            config.experiment_name,
            folder.path,
            f"{parameters['backbone']:,}",
            f"{parameters['circuit']:,}",
        )
        training.fit(folder, manifest)
        training.leave()
        if manifest is not None:
            _finish(config, overrides, training, folder, manifest, parameters)
    except (KeyboardInterrupt, SystemExit):  # the latter is Lightning's answer to Ctrl-C
        raise folder.interrupted() from None
    except Exception as error:
        if isinstance(error, UserError):
            raise
        if disk_is_full(error):
            raise UserError(f"no space is left for {folder.path}: free some, and start again") from None
        log.debug("", exc_info=True)
        error.log_file = folder.log_file  # type: ignore[attr-defined]  # read by the command
        raise
    finally:
        folder.close()
    return folder.path


def _weights_of(config: DictConfig, experiment: Experiment) -> str:
    """Which weights the backbone has: by themselves, or by their files where this rank never sees them all."""
    if experiment.cache is not None:
        return experiment.cache.folder.backbone
    unread = getattr(experiment.backbone, "stored", None) is not None
    return files_digest(config.backbone.path_or_repo) if unread else fingerprint(experiment.backbone)


def _finish(
    config: DictConfig,
    overrides: Sequence[str],
    training: Training,
    folder: RunFolder,
    manifest: Manifest,
    parameters: dict[str, int],
) -> None:
    """Measures what was trained, and writes it down."""
    experiment = with_weights(config, training.trained(folder))
    if isinstance(experiment.module, JointModule):
        experiment.module.finish()
    rows = [row("training_seconds", training.seconds, training.seconds, training.seconds, 1, "s", "train")]
    _export(experiment, folder)
    rows += measure(config, experiment, folder.path, Processes(), discard=True)
    if experiment.circuit is not None:
        write_text(folder.path / "circuit" / CARD_NAME, circuit_card(config, experiment.circuit, rows))
    write_results(
        folder.results_file,
        experiment=config.experiment_name,
        seconds=manifest.seconds,
        parameters=parameters,
        metrics=rows,
    )
    training.tell(rows, {"experiment": config.experiment_name, **settings_of(config, overrides)})
    manifest.update()
    folder.finish()
    say_goodbye(config, experiment, folder, rows)


def _export(experiment: Experiment, folder: RunFolder) -> None:
    """Writes what was trained as a Hugging Face folder."""
    if experiment.circuit is None or isinstance(experiment.module, JointModule):
        save_backbone(experiment.backbone, folder.path / "backbone")
    if experiment.circuit is not None:
        save_circuit(experiment.circuit, folder.path / "circuit")
    log.info("%s holds what is now measured", folder.path)
