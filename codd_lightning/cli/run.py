"""One run: fit, export, measure on the test split, and say what to do next."""

import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from omegaconf import DictConfig
from tqdm.auto import tqdm

from codd_lightning.backbones import save_backbone
from codd_lightning.circuits import save_circuit
from codd_lightning.cli.build import Experiment, build, make_callbacks, make_trainer
from codd_lightning.cli.console import ProgressBar, log_to, quiet_libraries
from codd_lightning.cli.model_card import circuit_card
from codd_lightning.cli.run_folder import Manifest, RunFolder, fingerprint, write_text
from codd_lightning.diffusion import CANVASES
from codd_lightning.errors import UserError
from codd_lightning.evaluation import (
    Row,
    accuracy_table,
    evaluate_few_step,
    evaluate_likelihood,
    likelihood_table,
    render,
    row,
    write_results,
)
from codd_lightning.modules import Noise

log = logging.getLogger("codd_lightning")

PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")


def run(config: DictConfig) -> Path:
    """One run from start to results.json; returns its folder."""
    quiet_libraries()
    L.seed_everything(config.seed, verbose=False)
    experiment = build(config)  # what does not fit fails here, unwritten
    _check_feasible(config, experiment)
    folder = RunFolder(config)
    log_to(folder.log_file)
    manifest = Manifest(folder, config)
    manifest.update(fingerprints={"backbone": fingerprint(experiment.backbone)})
    try:
        _run(config, experiment, folder, manifest)
    except Exception as error:
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
    checkpoints = ModelCheckpoint(
        dirpath=folder.checkpoints,
        filename="best",
        monitor="validation/nll_coupled" if experiment.circuit is not None else "validation/nll_per_masked_token",
        enable_version_counter=False,
    )
    # "last" of ModelCheckpoint follows the best; a stopped run goes on from its last epoch, good or bad
    latest = ModelCheckpoint(dirpath=folder.checkpoints, filename="last", monitor=None, enable_version_counter=False)
    bar = [ProgressBar()] if config.trainer.progress_bar else []
    trainer = make_trainer(
        config,
        experiment.module,
        callbacks=[checkpoints, latest, LearningRateMonitor("step"), *bar, *make_callbacks(config, experiment)],
        logger=TensorBoardLogger(folder.path, name="", version="tensorboard"),
        default_root_dir=folder.path,
    )
    if folder.checkpoint is not None:
        manifest.resume(int(torch.load(folder.checkpoint, weights_only=True)["global_step"]))
        log.info("continuing from %s", folder.checkpoint)
    before = manifest.seconds
    try:
        if not any(p.requires_grad for p in experiment.module.parameters()):
            log.info("nothing here has parameters to train; measuring it as it is")
        else:
            trainer.fit(experiment.module, experiment.data, ckpt_path=folder.checkpoint, weights_only=True)
    except SystemExit:  # Lightning's answer to Ctrl-C
        raise KeyboardInterrupt(f"add output_dir={folder.path} to continue from the last whole epoch") from None
    training_seconds = manifest.seconds - before
    if checkpoints.best_model_path:
        _restore(experiment.module, checkpoints.best_model_path)
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
    manifest.update(seconds=manifest.seconds)
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


def _check_feasible(config: DictConfig, experiment: Experiment) -> None:
    """Refuses what could only fail after something was written."""
    _check_budgets(config, "evaluation", config.evaluation.steps_per_block)
    if config.trainer.precision not in PRECISIONS:
        raise UserError(f"trainer.precision={config.trainer.precision} is not one of {', '.join(PRECISIONS)}")
    if config.evaluation.likelihood_canvas not in (*CANVASES, "mixed"):
        known = ", ".join((*CANVASES, "mixed"))
        raise UserError(f"evaluation.likelihood_canvas={config.evaluation.likelihood_canvas} is not one of {known}")
    cores = os.cpu_count() or 1
    if config.trainer.accelerator == "cpu" and config.trainer.devices > cores:
        raise UserError(f"trainer.devices={config.trainer.devices} is more than the {cores} cores of this machine")
    if config.trainer.accelerator == "gpu" and not torch.cuda.is_available():
        raise UserError("trainer.accelerator=gpu: torch sees no GPU here; use trainer=cpu")
    size = config.data.train_size
    if size is not None and size < config.data.batch_size:
        raise UserError(f"data.train_size={size} is less than one batch: data.batch_size={config.data.batch_size}")
    for name, callback in config.callbacks.items():
        if callback is None:
            raise UserError(f"callbacks.{name}=null: use ~callbacks.{name} or callbacks=none to go without")
        if "decoders" in callback and not callback.decoders:
            raise UserError(f"callbacks.{name}.decoders is empty: name at least one, or use callbacks=none")
        _check_budgets(config, f"callbacks.{name}", callback.get("steps_per_block", []))
        wanted, there = callback.get("examples", 0), config.data.validation_size
        if there is not None and wanted > there:
            raise UserError(f"callbacks.{name}.examples={wanted} is more than data.validation_size={there}")
    if experiment.circuit is not None and not hasattr(experiment.module, "circuit"):
        raise UserError("this objective trains no circuit: add circuit=none")
    for decoder in experiment.decoders:
        if decoder.proposal not in (None, "factorized") and experiment.circuit is None:
            raise UserError(f"evaluation.decoders: {decoder.proposal} needs a circuit, and circuit=none")
    for name in ("examples", "likelihood_examples"):
        wanted, there = config.evaluation[name], config.data.test_size
        if there is not None and wanted > there:
            raise UserError(f"evaluation.{name}={wanted} is more than data.test_size={there}")


def _check_budgets(config: DictConfig, owner: str, budgets: Sequence[int]) -> None:
    if min(budgets, default=1) < 1:
        raise UserError(f"{owner}.steps_per_block={list(budgets)} must be at least 1 each")
    if max(budgets, default=1) > config.data.block_length:
        raise UserError(
            f"{owner}.steps_per_block={max(budgets)} is more than the {config.data.block_length} tokens of a block"
        )


def _restore(module: L.LightningModule, path: str) -> None:
    checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    module.on_load_checkpoint(checkpoint)
    module.load_state_dict(checkpoint["state_dict"])


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
    if experiment.decoders:
        for metric in ("strict_accuracy", "flexible_accuracy"):
            log.info(render(accuracy_table(rows, metric)))
    log.info("results: %s", folder.results_file)
    log.info("next:")
    log.info("  tensorboard --logdir %s", folder.path)
    if experiment.circuit is not None:
        prompt = experiment.data.dataset("test").example(0)[0].prompt
        if len(prompt) < 200:
            log.info('  codd generate "%s" --circuit %s', prompt, folder.path / "circuit")
    log.info("  codd train %s --help", config.experiment_name)
