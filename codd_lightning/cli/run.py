"""One run: fit, export, measure on the test split, and say what to do next."""

import logging
import shutil
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import LearningRateMonitor, Timer
from lightning.pytorch.loggers import TensorBoardLogger
from omegaconf import DictConfig
from tqdm.auto import tqdm

from codd_lightning.backbones import save_backbone
from codd_lightning.circuits import save_circuit
from codd_lightning.cli.build import Experiment, build, make_trainer
from codd_lightning.cli.checkpoints import (
    BEST,
    LAST,
    RunCheckpoints,
    SyncedFiles,
    newest_whole,
    read_checkpoint,
    restore,
)
from codd_lightning.cli.compose import without_effect
from codd_lightning.cli.console import ProgressBar, log_to, quiet_libraries
from codd_lightning.cli.failure import disk_is_full
from codd_lightning.cli.feasible import require_feasible
from codd_lightning.cli.manifest import Manifest, fingerprint
from codd_lightning.cli.model_card import circuit_card
from codd_lightning.cli.run_folder import RunFolder, write_text
from codd_lightning.errors import UserError
from codd_lightning.evaluation import (
    Row,
    accuracy_table,
    evaluate_barrier,
    evaluate_few_step,
    evaluate_likelihood,
    likelihood_table,
    render,
    row,
    write_results,
)
from codd_lightning.modules import Noise

log = logging.getLogger("codd_lightning")


def run(config: DictConfig) -> Path:
    """One run from start to results.json; returns its folder."""
    quiet_libraries()
    L.seed_everything(config.seed, verbose=False)
    experiment = build(config)  # what does not fit fails here, unwritten
    require_feasible(config, experiment)
    folder = RunFolder(config)
    log_to(folder.log_file)
    for option in without_effect(config):
        log.warning("%s has no effect here", option)
    manifest = Manifest(folder, config)
    manifest.update(fingerprints={"backbone": fingerprint(experiment.backbone)})
    try:
        _run(config, experiment, folder, manifest)
    except (KeyboardInterrupt, SystemExit):  # the latter is Lightning's answer to Ctrl-C
        saved = (folder.checkpoints / LAST).exists()
        mend = f"add output_dir={folder.path} to continue from the last checkpoint"
        raise KeyboardInterrupt(mend if saved else "before the first checkpoint: nothing was saved") from None
    except Exception as error:
        if not isinstance(error, UserError) and disk_is_full(error):
            raise UserError(f"no space is left for {folder.path}: free some, and start again") from None
        if not isinstance(error, UserError):
            log.debug("", exc_info=True)
            error.log_file = folder.log_file  # type: ignore[attr-defined]  # read by the command
        raise
    return folder.path


def _run(config: DictConfig, experiment: Experiment, folder: RunFolder, manifest: Manifest) -> None:
    parameters = {
        "backbone": sum(p.numel() for p in experiment.backbone.parameters()),
        "circuit": sum(p.numel() for p in experiment.circuit.parameters()) if experiment.circuit is not None else 0,
    }
    log.info(
        "%s → %s  (backbone %s parameters, circuit %s)",
        config.experiment_name,
        folder.path,
        f"{parameters['backbone']:,}",
        f"{parameters['circuit']:,}",
    )
    monitor = "validation/nll_coupled" if experiment.circuit is not None else "validation/nll_per_masked_token"
    options = config.trainer
    checkpoints = RunCheckpoints(
        folder.checkpoints, monitor, options.checkpoint_every_n_steps, options.checkpoint_minutes
    )
    timer = Timer()  # counts over all starts of a run
    bar = [ProgressBar()] if config.trainer.progress_bar else []
    trainer = make_trainer(
        config,
        experiment.module,
        callbacks=[checkpoints, timer, LearningRateMonitor("step"), *bar, *experiment.callbacks],
        logger=TensorBoardLogger(folder.path, name="", version="tensorboard"),
        plugins=[SyncedFiles()],
        default_root_dir=folder.path,
    )
    checkpoint = newest_whole(folder.checkpoints, log.warning)
    if checkpoint is not None:
        step = int(read_checkpoint(checkpoint)["global_step"])
        manifest.resume(step)
        log.info("continuing from %s, step %d", checkpoint, step)
    if not any(p.requires_grad for p in experiment.module.parameters()):
        log.info("nothing here has parameters to train; it is measured as it is")
    else:
        if checkpoint is None and experiment.circuit is not None:
            experiment.initialization(experiment.circuit, experiment.backbone, experiment.data, experiment.noise)
        trainer.fit(experiment.module, experiment.data, ckpt_path=checkpoint, weights_only=True)
    training_seconds = timer.time_elapsed()
    if (best := folder.checkpoints / BEST).exists():
        restore(experiment.module, best)
    rows = [row("training_seconds", training_seconds, training_seconds, training_seconds, 1, "s", "train")]
    rows += measure(config, experiment)
    _export(config, experiment, folder, rows)
    write_results(
        folder.results_file,
        experiment=config.experiment_name,
        seconds=manifest.seconds,
        parameters=parameters,
        metrics=rows,
    )
    manifest.update()
    folder.finish()
    _say_goodbye(config, experiment, folder, rows)


def measure(config: DictConfig, experiment: Experiment) -> list[Row]:
    """Every figure of the test split."""
    options = config.evaluation
    module = experiment.module.eval()
    backbone = experiment.backbone.to(module.device).eval()
    rows: list[Row] = []
    if options.likelihood_examples:
        rows += evaluate_likelihood(
            backbone,
            experiment.data,
            Noise(options.likelihood_canvas, config.data.block_length, 0.0, config.seed),
            circuit=experiment.circuit,
            examples=options.likelihood_examples,
            batch_size=options.batch_size,
            split="test",
            evidence_top_k=config.decoding.evidence_top_k,
        )
    if options.barrier_examples:
        rows += evaluate_barrier(
            backbone,
            experiment.task,
            experiment.data.dataset("test"),
            circuit=experiment.circuit,
            examples=options.barrier_examples,
            split="test",
        )
    if options.examples and experiment.decoders:
        rows += evaluate_few_step(
            backbone,
            experiment.task,
            experiment.data.dataset("test"),
            experiment.decoders,
            options.steps_per_block,
            circuit=experiment.circuit,
            examples=options.examples,
            batch_size=options.batch_size,
            seed=config.seed,
            split="test",
            progress=_progress if config.trainer.progress_bar else iter,
        ).rows
    return rows


def _progress(settings: Iterable[Any]) -> Iterator[Any]:
    """A bar over the settings of the final evaluation."""
    yield from tqdm(list(settings), desc="test split", unit="setting", leave=False)


def _export(config: DictConfig, experiment: Experiment, folder: RunFolder, rows: list[Row]) -> None:
    """Writes what was trained as a Hugging Face folder."""
    if experiment.circuit is None:
        save_backbone(experiment.backbone, folder.path / "backbone")
        return
    save_circuit(experiment.circuit, folder.path / "circuit")
    write_text(folder.path / "circuit" / "README.md", circuit_card(config, experiment.circuit, rows))


def _say_goodbye(config: DictConfig, experiment: Experiment, folder: RunFolder, rows: list[Row]) -> None:
    if any("mask_ratio" in measured for measured in rows):
        log.info(render(likelihood_table(rows)))
    for metric in ("strict_accuracy", "flexible_accuracy"):
        if any(measured["name"] == metric for measured in rows):
            log.info(render(accuracy_table(rows, metric)))
    for measured in rows:
        if "head" in measured:
            log.info("%s, %s: %.4f %s", measured["name"], measured["head"], measured["value"], measured["unit"])
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
