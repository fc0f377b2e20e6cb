"""Every figure of the test split."""

import json
import logging
import shutil
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from codd_lightning.cli.build import Experiment
from codd_lightning.cli.manifest import fingerprint
from codd_lightning.cli.processes import Processes
from codd_lightning.cli.progress import show_progress
from codd_lightning.cli.run_folder import write_text
from codd_lightning.decoding import DecodingConfig
from codd_lightning.errors import UserError
from codd_lightning.evaluation import (
    FewStepEvaluation,
    Row,
    SampleFolder,
    accuracy_table,
    aup_rows,
    evaluate_barrier,
    evaluate_likelihood,
    likelihood_table,
    render,
    settings_of,
    subtask_rows,
    template_rows,
    write_samples,
)
from codd_lightning.evaluation.few_step import SampleBatch
from codd_lightning.evaluation.rows import series_label
from codd_lightning.evaluation.tables import percent
from codd_lightning.modules import Noise

log = logging.getLogger("codd_lightning")

# Of the configuration, what decides how a sample comes out.
DECIDES = ("data", "decoding", "evaluation", "seed")
SPLIT = "test"


def measure(config: DictConfig, experiment: Experiment, folder: Path, processes: Processes, discard: bool) -> list[Row]:
    """Likelihoods, the known barrier and few-step accuracy, as far as the configuration asks for them.

    Samples are kept in `folder/samples` as they are decoded, so that a measurement which was stopped goes on,
    and are in `folder/samples.jsonl` in the end.

    Args:
        config: of the run.
        experiment: its objects, trained.
        folder: of the run.
        processes: share the decoding; only the first one returns rows.
        discard: samples of other weights or settings, which a stopped measurement left, are deleted, not refused.

    Raises:
        UserError: there are such samples.
    """
    module = experiment.module.eval()
    backbone = experiment.backbone.to(module.device).eval()
    rows = _sums(config, experiment, backbone) if processes.rank == 0 else []
    options = config.evaluation
    if not (options.examples and experiment.decoders):
        return rows
    evaluation = few_step(config, experiment)
    path = folder / "samples"
    processes.first(lambda: _require_own(path, _decisive(config, experiment), discard))
    store = SampleFolder(path, processes.rank)
    show = config.trainer.progress_bar and processes.rank == 0
    evaluation.decode(
        backbone,
        experiment.circuit,
        store,
        processes.rank,
        processes.size,
        progress=partial(_progress, processes) if show else iter,
    )
    processes.wait()
    if processes.rank != 0:
        return []
    result = evaluation.result(store)
    write_samples(folder / "samples.jsonl", (sample.record() for decoded in result.samples for sample in decoded))
    rows += result.rows + template_rows(result.samples, SPLIT)
    rows += [row for decoded in result.samples for row in subtask_rows(decoded, SPLIT)]
    return rows + [row for row in aup_rows(result.samples, SPLIT) if len(row["budgets"]) > 1]  # a point has no area


def count_parameters(experiment: Experiment) -> dict[str, int]:
    """Of the backbone and of the circuit."""
    parts = {"backbone": experiment.backbone, "circuit": experiment.circuit}
    return {name: 0 if part is None else sum(p.numel() for p in part.parameters()) for name, part in parts.items()}


def warn_of_dropped(experiment: Experiment, splits: Sequence[str]) -> None:
    """Says how many problems are not there because they are too long: a benchmark is another without them."""
    for split in splits:
        dataset = experiment.data.dataset(split)
        if dataset.dropped:
            log.warning(
                "%d of %d %s problems are longer than data.max_prompt_tokens=%d and data.max_response_tokens=%d, "
                "and left out",
                *(dataset.dropped, dataset.dropped + len(dataset), split),
                *(experiment.data.max_prompt_tokens, experiment.data.max_response_tokens),
            )


def say(rows: Sequence[Row]) -> None:
    """Shows what was measured."""
    if any("mask_ratio" in measured for measured in rows):
        log.info(render(likelihood_table(rows)))
    for metric in ("strict_accuracy", "flexible_accuracy"):
        if any(measured["name"] == metric for measured in rows):
            log.info(render(accuracy_table(rows, metric)))
    for measured in rows:
        if "head" in measured:
            log.info("%s, %s: %.4f %s", measured["name"], measured["head"], measured["value"], measured["unit"])
        if measured["name"] == "nll_of_samples":
            label = f"{series_label(measured)}, {measured['steps_per_block']} steps"
            log.info("samples of %s: %.3f nats a token, by the backbone one at a time", label, measured["value"])
        if measured["name"] == "strict_accuracy_spread":
            label = f"{series_label(measured)}, {measured['steps_per_block']} steps"
            log.info("strict accuracy over templates, %s: spread %s %%", label, percent(measured))


def few_step(config: DictConfig, experiment: Experiment) -> FewStepEvaluation:
    """Every decoder at every budget, under every template."""
    options = config.evaluation
    return FewStepEvaluation(
        experiment.task,
        experiment.data.dataset(SPLIT),
        [
            setting
            for template in (list(options.templates) or [None])
            for decoder in experiment.decoders
            for setting in settings_of(
                decoder, options.steps_per_block, experiment.circuit, template, **_tuned(config, decoder)
            )
        ],
        examples=options.examples,
        batch_size=options.batch_size,
        batch_tokens=options.batch_tokens,
        likelihood=options.sample_likelihood,
        seed=config.seed,
        split=SPLIT,
    )


def _tuned(config: DictConfig, decoder: DecodingConfig) -> dict[str, float]:
    """The labels of γ and τ where they are not those of the configuration."""
    own = config.decoding.tuned and decoder.proposal != "factorized"
    return {"gamma": decoder.gamma, "tau": decoder.tau} if own else {}


def _sums(config: DictConfig, experiment: Experiment, backbone: Any) -> list[Row]:
    """What is measured without drawing a sample."""
    options = config.evaluation
    rows: list[Row] = []
    if options.likelihood_examples:
        rows += evaluate_likelihood(
            backbone,
            experiment.data,
            Noise(options.likelihood_canvas, config.data.block_length, 0.0, config.seed),
            circuit=experiment.circuit,
            examples=options.likelihood_examples,
            batch_size=options.batch_size,
            split=SPLIT,
            evidence_top_k=config.decoding.evidence_top_k,
            sequential=options.sequential_likelihood,
        )
    if options.barrier_examples:
        rows += evaluate_barrier(
            backbone,
            experiment.task,
            experiment.data.dataset(SPLIT),
            circuit=experiment.circuit,
            examples=options.barrier_examples,
            split=SPLIT,
        )
    return rows


def _decisive(config: DictConfig, experiment: Experiment) -> dict[str, Any]:
    """What samples of one measurement have in common."""
    circuit = experiment.circuit
    return {
        "backbone": fingerprint(experiment.backbone),
        "circuit": None if circuit is None else fingerprint(circuit),
        **{name: OmegaConf.to_container(OmegaConf.create({"": config[name]}), resolve=True) for name in DECIDES},
    }


def _require_own(path: Path, decisive: dict[str, Any], discard: bool) -> None:
    """Makes the folder of the samples, or finds it as a stopped measurement of the same left it."""
    settings = path / "settings.json"
    text = json.dumps(decisive, indent=1, sort_keys=True) + "\n"
    if path.exists() and (not settings.is_file() or settings.read_bytes() != text.encode()):
        if not discard:
            raise UserError(f"{path} holds samples of other weights or settings: add overwrite=true to delete them")
        shutil.rmtree(path)
    path.mkdir(parents=True, exist_ok=True)
    write_text(settings, text)


def _progress(processes: Processes, batches: Iterable[SampleBatch]) -> Iterator[SampleBatch]:
    """Shows how many denoising steps are done, which cost alike: samples do not, and the last ones cost the most."""
    waiting = list(batches)
    share = SPLIT if processes.size == 1 else f"{SPLIT}, the first of {processes.size} shares"
    steps = [len(batch.positions) * batch.setting.config.steps for batch in waiting]
    with show_progress(sum(steps), "step", share) as advance:
        for batch, done in zip(waiting, steps, strict=True):
            yield batch
            advance(done)
