"""One run: fit, export, measure on the test split, and say what to do next."""

import logging
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import lightning as L
from lightning.pytorch.callbacks import LearningRateMonitor, Timer
from lightning.pytorch.loggers import TensorBoardLogger
from omegaconf import DictConfig

from codd_lightning.backbones import save_backbone
from codd_lightning.circuits import save_circuit
from codd_lightning.cli.build import Experiment, build, make_trainer, with_weights
from codd_lightning.cli.checkpoints import RunCheckpoint, read_checkpoint, restore
from codd_lightning.cli.compose import settings_of, without_effect
from codd_lightning.cli.console import ProgressBar, log_to, quiet_libraries
from codd_lightning.cli.feasible import require_feasible
from codd_lightning.cli.manifest import Manifest, fingerprint
from codd_lightning.cli.measure import count_parameters, measure, say, warn_of_dropped
from codd_lightning.cli.model_card import circuit_card
from codd_lightning.cli.processes import Processes
from codd_lightning.cli.run_folder import RunFolder, write_text
from codd_lightning.errors import UserError
from codd_lightning.evaluation import Row, TakesResults, row, write_results
from codd_lightning.tasks import SPLITS

log = logging.getLogger("codd_lightning")


def run(config: DictConfig, overrides: Sequence[str] = ()) -> Path:
    """One run from start to results.json; returns its folder.

    Args:
        config: all of it.
        overrides: those of the command line that it was composed with.
    """
    quiet_libraries()
    L.seed_everything(config.seed, verbose=False)
    experiment = build(config)  # what does not fit fails here, unwritten
    require_feasible(config, experiment)
    folder = RunFolder(config)
    log_to(folder.log_file)
    for option in without_effect(config):
        log.warning("%s has no effect here", option)
    warn_of_dropped(experiment, SPLITS)
    manifest = Manifest(folder, config)
    cache = experiment.cache
    weights = fingerprint(experiment.backbone) if cache is None else cache.folder.backbone
    manifest.update(fingerprints={"backbone": weights})
    try:
        _run(config, overrides, experiment, folder, manifest)
    except (KeyboardInterrupt, SystemExit):  # the latter is Lightning's answer to Ctrl-C
        saved = (folder.checkpoints / "last.ckpt").exists()
        mend = f"add output_dir={folder.path} to continue from the last whole epoch"
        raise KeyboardInterrupt(mend if saved else "before the end of the first epoch: nothing was saved") from None
    except Exception as error:
        if not isinstance(error, UserError):
            log.debug("", exc_info=True)
            error.log_file = folder.log_file  # type: ignore[attr-defined]  # read by the command
        raise
    return folder.path


def _run(
    config: DictConfig, overrides: Sequence[str], experiment: Experiment, folder: RunFolder, manifest: Manifest
) -> None:
    parameters = count_parameters(experiment)
    log.info(
        "%s → %s  (backbone %s parameters, circuit %s)",
        config.experiment_name,
        folder.path,
        f"{parameters['backbone']:,}",
        f"{parameters['circuit']:,}",
    )
    monitor = "validation/nll_coupled" if experiment.circuit is not None else "validation/nll_per_masked_token"
    best = RunCheckpoint(folder.checkpoints, "best", monitor)
    last = RunCheckpoint(folder.checkpoints, "last")  # a stopped run goes on from its last epoch, good or bad
    timer = Timer()  # counts over all starts of a run
    bar = [ProgressBar()] if config.trainer.progress_bar else []
    trainer = make_trainer(
        config,
        experiment.module,
        callbacks=[best, last, timer, LearningRateMonitor("step"), *bar, *experiment.callbacks],
        logger=TensorBoardLogger(folder.path, name="", version="tensorboard"),
        default_root_dir=folder.path,
    )
    if folder.checkpoint is not None:
        manifest.resume(int(read_checkpoint(folder.checkpoint)["global_step"]))
        log.info("continuing from %s", folder.checkpoint)
    if not any(p.requires_grad for p in experiment.module.parameters()):
        log.info("nothing here has parameters to train; it is measured as it is")
    else:
        if folder.checkpoint is None and experiment.circuit is not None:
            experiment.initialization(experiment.circuit, experiment.backbone, experiment.data, experiment.noise)
        if experiment.cache is not None:
            log.info("evidence from %s; the backbone is loaded after training, to be measured", config.cache.path)
        batches = experiment.cache or experiment.data
        trainer.fit(experiment.module, batches, ckpt_path=folder.checkpoint, weights_only=True)
    training_seconds = timer.time_elapsed()
    if best.best_model_path:
        restore(experiment.module, Path(best.best_model_path))
    rows = [row("training_seconds", training_seconds, training_seconds, training_seconds, 1, "s", "train")]
    experiment = with_weights(config, experiment)
    rows += measure(config, experiment, folder.path, Processes(), discard=True)
    _export(config, experiment, folder, rows)
    write_results(
        folder.results_file,
        experiment=config.experiment_name,
        seconds=manifest.seconds,
        parameters=parameters,
        metrics=rows,
    )
    settings = {"experiment": config.experiment_name, **settings_of(config, overrides)}
    for callback in experiment.callbacks:
        if isinstance(callback, TakesResults):
            callback.on_results(trainer, rows, settings)
    manifest.update()
    folder.finish()
    _say_goodbye(config, experiment, folder, rows)


def _export(config: DictConfig, experiment: Experiment, folder: RunFolder, rows: list[Row]) -> None:
    """Writes what was trained as a Hugging Face folder."""
    if experiment.circuit is None:
        save_backbone(experiment.backbone, folder.path / "backbone")
        return
    save_circuit(experiment.circuit, folder.path / "circuit")
    write_text(folder.path / "circuit" / "README.md", circuit_card(config, experiment.circuit, rows))


def _say_goodbye(config: DictConfig, experiment: Experiment, folder: RunFolder, rows: list[Row]) -> None:
    say(rows)
    log.info("results: %s", folder.results_file)
    # as it can be typed here: with the environment's folder where that is not on the path
    here = "" if shutil.which("codd") else f"{Path(sys.executable).parent}/"
    log.info("next:")
    log.info("  %stensorboard --logdir %s", here, folder.path)
    path = config.backbone.get("path_or_repo")
    if experiment.circuit is not None and path is not None:
        prompt = experiment.data.dataset("test").example(0)[0].prompt
        of = "" if path == "codd_tiny" else f" --backbone {path}"
        if len(prompt) < 200:
            log.info('  %scodd generate "%s"%s --circuit %s', here, prompt, of, folder.path / "circuit")
    log.info("  %scodd train %s --help", here, config.experiment_name)
