"""One run: fit, export, measure on the test split, and say what to do next."""

import logging
import shutil
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import lightning as L
from omegaconf import DictConfig
from tqdm.auto import tqdm

from codd_lightning.backbones import save_backbone
from codd_lightning.circuits import save_circuit
from codd_lightning.cli.build import Experiment, build
from codd_lightning.cli.compose import without_effect
from codd_lightning.cli.console import log_to, quiet_libraries
from codd_lightning.cli.failure import disk_is_full
from codd_lightning.cli.feasible import require_feasible
from codd_lightning.cli.manifest import Manifest, fingerprint
from codd_lightning.cli.model_card import circuit_card
from codd_lightning.cli.run_folder import RunFolder, write_text
from codd_lightning.cli.training import Training
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


def run(config: DictConfig, local_rank: int | None = None) -> Path:
    """One run from start to results.json, or one rank's part of it; returns its folder.

    Args:
        config: of the run.
        local_rank: of this process, where `cli.ranks` started it.
    """
    quiet_libraries()
    L.seed_everything(config.seed, verbose=False)
    experiment = build(config)  # what does not fit fails here, unwritten
    require_feasible(config, experiment)
    folder = RunFolder(config)
    parameters = {
        "backbone": sum(p.numel() for p in experiment.backbone.parameters()),
        "circuit": sum(p.numel() for p in experiment.circuit.parameters()) if experiment.circuit is not None else 0,
    }
    training = Training(config, experiment, folder.path, launched=local_rank is not None)
    try:
        training.join(folder)
        log_to(folder.log_file, speaks=training.leads)
        for option in without_effect(config):
            log.warning("%s has no effect here", option)
        manifest = None
        if training.leads:
            manifest = Manifest(folder, config)
            manifest.update(fingerprints={"backbone": fingerprint(experiment.backbone)})
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
            _finish(config, training, folder, manifest, parameters)
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
    return folder.path


def _finish(
    config: DictConfig, training: Training, folder: RunFolder, manifest: Manifest, parameters: dict[str, int]
) -> None:
    """Measures what was trained, and writes it down."""
    experiment = training.trained(folder)
    rows = [row("training_seconds", training.seconds, training.seconds, training.seconds, 1, "s", "train")]
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
