"""`codd tune`: γ and τ of the coupled decoders, chosen on held-out data and written into the circuit's config."""

import argparse
import itertools
import json
import logging
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from rich.table import Table

from codd_lightning.circuits import Circuit, save_circuit
from codd_lightning.circuits.folder import BUNDLED
from codd_lightning.cli.build import Experiment
from codd_lightning.cli.compose import compose_experiment
from codd_lightning.cli.feasible import require_examples
from codd_lightning.cli.processes import Processes
from codd_lightning.cli.progress import show_progress
from codd_lightning.cli.run_folder import RunFolder
from codd_lightning.cli.trained import begin, keep, open_trained
from codd_lightning.errors import UserError
from codd_lightning.evaluation import (
    FewStepEvaluation,
    Remembering,
    Row,
    accuracy_rows,
    decoder_label,
    render,
    settings_of,
)
from codd_lightning.evaluation.samples import Sample
from codd_lightning.evaluation.tables import percent

log = logging.getLogger("codd_lightning")

SPLIT = "validation"  # never the test split
Choice = dict[str, Any]


def tune_command(args: argparse.Namespace) -> int:
    """The command."""
    if args.experiment is None:
        raise UserError("codd tune needs an EXPERIMENT: a name in experiments/ or a path")
    config = compose_experiment(args.experiment, args.overrides)
    config.output_dir = str(RunFolder(config).path)
    tune(config)
    return 0


def tune(config: DictConfig) -> dict[str, Choice]:
    """Decodes held-out problems at every γ and τ; returns the best of each coupled decoder.

    The best has the highest strict accuracy, averaged over `tuning.steps_per_block`; of equals the highest flexible
    accuracy, then what comes first in `tuning.gammas` and `tuning.taus`. The rows go into `results.json`, the choice
    into the circuit's `config.json`.

    Raises:
        UserError: there is no circuit, nothing trained, or no held-out problem.
    """
    run, trained, experiment = open_trained(config, Processes())
    decoders = [decoder for decoder in experiment.decoders if decoder.proposal != "factorized"]
    if experiment.circuit is None or not decoders:
        raise UserError("codd tune needs a circuit, and a coupled decoder among evaluation.decoders")
    options = config.tuning
    if not (options.gammas and options.taus and options.steps_per_block):
        raise UserError("tuning.gammas, tuning.taus and tuning.steps_per_block need at least one value each")
    require_examples("tuning.examples", options.examples, experiment, SPLIT)
    grid = list(itertools.product(options.gammas, options.taus))
    evaluation = FewStepEvaluation(
        experiment.task,
        experiment.data.dataset(SPLIT),
        [
            setting
            for decoder in decoders
            for gamma, tau in grid
            for setting in settings_of(
                decoder.replace(gamma=gamma, tau=tau),
                options.steps_per_block,
                experiment.circuit,
                gamma=gamma,
                tau=tau,
            )
        ],
        examples=options.examples,
        batch_size=config.evaluation.batch_size,
        batch_tokens=config.evaluation.batch_tokens,
        seed=config.seed,
        split=SPLIT,
    )
    with closing(RunFolder(config)) as folder:
        if run is None:
            folder.prepare()
        else:
            folder.hold()
        manifest = begin(config, run, experiment, folder)
        rows = _decode(evaluation, experiment, config.trainer.progress_bar)
        choices = _choose(rows, grid)
        keep(config, run, experiment, folder, manifest, rows, SPLIT)
        _say(rows, choices)
        _write(str(trained.circuit.path_or_repo), experiment.circuit, choices)
    return choices


def _decode(evaluation: FewStepEvaluation, experiment: Experiment, show: bool) -> list[Row]:
    """Accuracies of every setting; settings that meet the same canvas share one backbone pass."""
    backbone: Any = Remembering(experiment.backbone.eval())
    samples: dict[str, list[Sample]] = {}
    last: list[int] = []
    batches = sorted(evaluation.batches, key=lambda batch: batch.positions)
    with show_progress(len(batches), "batch", SPLIT, show) as advance:
        for batch in batches:
            if batch.positions != last:
                backbone.forget()
                last = batch.positions
            found = evaluation.decode_batch(backbone, experiment.circuit, batch)
            samples.setdefault(json.dumps(batch.setting.labels), []).extend(found)
            advance(1)
    asked = backbone.passes + backbone.recalled
    log.info("%d of %d backbone passes were shared", backbone.recalled, asked)
    return [row for decoded in samples.values() for row in accuracy_rows(decoded, SPLIT)]


def _choose(rows: Sequence[Row], grid: Sequence[tuple[float, float]]) -> dict[str, Choice]:
    chosen: dict[str, Choice] = {}
    for label in dict.fromkeys(decoder_label(row) for row in rows):
        mine = [row for row in rows if decoder_label(row) == label]
        budgets = len({row["steps_per_block"] for row in mine})
        scores = []
        for place, (gamma, tau) in enumerate(grid):
            here = [row for row in mine if (row["gamma"], row["tau"]) == (gamma, tau)]
            strict, flexible = (
                sum(row["value"] for row in here if row["name"] == name) / budgets
                for name in ("strict_accuracy", "flexible_accuracy")
            )
            scores.append((strict, flexible, -place))
        strict, flexible, place = max(scores)
        gamma, tau = grid[-place]
        chosen[label] = {
            "gamma": gamma,
            "tau": tau,
            "steps_per_block": sorted({row["steps_per_block"] for row in mine}),
            "strict_accuracy": strict,
            "tied": sum(score[:2] == (strict, flexible) for score in scores) - 1,
            "n": mine[0]["n"],
            "split": SPLIT,
        }
    return chosen


def _say(rows: Sequence[Row], choices: dict[str, Choice]) -> None:
    for label, choice in choices.items():
        mine = [row for row in rows if decoder_label(row) == label]
        for budget in choice["steps_per_block"]:
            log.info(render(_table(label, [row for row in mine if row["steps_per_block"] == budget])))
        if not choice["strict_accuracy"]:
            log.warning("%s: no held-out problem was solved strictly, so this choice means little", label)
        if choice["tied"]:
            log.info("%s: %d others are as good, strict and flexible; the first was taken", label, choice["tied"])
        log.info(
            "%s: decoding.gamma=%s decoding.tau=%s  (strict accuracy %.1f %% of %d held-out problems)",
            *(label, choice["gamma"], choice["tau"], 100 * choice["strict_accuracy"], choice["n"]),
        )


def _table(label: str, rows: Sequence[Row]) -> Table:
    """Strict accuracies at one budget, γ by τ."""
    strict = [row for row in rows if row["name"] == "strict_accuracy"]
    taus = list(dict.fromkeys(row["tau"] for row in strict))
    table = Table(title=f"{label}, {strict[0]['steps_per_block']} steps per block: strict accuracy of {SPLIT}, %")
    table.add_column("γ")
    for tau in taus:
        table.add_column(f"τ {tau:g}", justify="right")
    for gamma in dict.fromkeys(row["gamma"] for row in strict):
        cells = {row["tau"]: percent(row) for row in strict if row["gamma"] == gamma}
        table.add_row(f"{gamma:g}", *(cells[tau] for tau in taus))
    return table


def _write(source: str, circuit: Circuit, choices: dict[str, Choice]) -> None:
    """Puts the choice into the circuit's config; a bundled circuit or one of the Hub is left as it is."""
    if source in BUNDLED or not Path(source).is_dir():
        log.info("%s is no folder of yours, so the choice is not written into its config", source)
        return
    circuit.tuned = {**circuit.tuned, **choices}
    save_circuit(circuit, source)
    log.info("written into %s", Path(source) / "config.json")
