"""What a run ends with: its figures, and commands that go on from them."""

import logging
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig

from codd_lightning.cli.arguments import build_parser
from codd_lightning.cli.build import Experiment
from codd_lightning.cli.compose import choices
from codd_lightning.cli.generate import DEFAULT_PROPOSAL
from codd_lightning.cli.measure import say
from codd_lightning.cli.run_folder import RunFolder
from codd_lightning.decoding import DecodingConfig
from codd_lightning.evaluation import Row, settings_of
from codd_lightning.evaluation.rows import is_final
from codd_lightning.modules import JointModule

log = logging.getLogger("codd_lightning")

# Options of a decoder that `codd generate` has too.
TOLD = ("paradigm", "proposal", "remasking", "eos", "max_new_tokens", "block_length", "gamma", "tau", "temperature")


def say_goodbye(config: DictConfig, experiment: Experiment, folder: RunFolder, rows: list[Row]) -> None:
    """Shows what was measured, and what may be typed next."""
    say(rows)
    log.info("results: %s", folder.results_file)
    log.info("next:")
    _show("tensorboard", "--logdir", folder.path)
    path = config.backbone.get("path_or_repo")
    if isinstance(experiment.module, JointModule):
        path = str(folder.path / "backbone")
    if experiment.circuit is not None and path is not None:
        prompt = experiment.data.dataset("test").example(0)[0].prompt
        of = [] if path == "codd_tiny" else ["--backbone", path]
        if len(prompt) < 200 and not prompt.startswith("-"):
            options = decoding_options(rows, experiment)
            _show("codd", "generate", prompt, *of, "--circuit", folder.path / "circuit", *options)
    _show("codd", "report", folder.path)
    if config.experiment_name in choices()["experiment"]:
        _show("codd", "train", config.experiment_name, "--help")


def _show(program: str, *words: str | Path) -> None:
    """A command as it can be typed here: with the environment's folder where that is not on the path."""
    here = program if shutil.which(program) else str(Path(sys.executable).parent / program)
    texts = [f"./{word}" if isinstance(word, Path) and str(word).startswith("-") else str(word) for word in words]
    log.info("  %s", shlex.join([here, *texts]))


def decoding_options(rows: Sequence[Row], experiment: Experiment) -> list[str]:
    """What `codd generate` must be told to decode as the coupled decoder that does best, in the fewest steps.

    That is, in as few as are still within the interval of the best. Nothing where no such decoder solves a problem.
    """
    coupled = [row for row in rows if is_final(row, "strict_accuracy") and row["decoder"] != "factorized"]
    by_quota = [row for row in coupled if "commit" not in row]
    if not any(row["value"] for row in by_quota):
        return []
    best = max(by_quota, key=lambda row: float(row["value"]))
    enough = [row for row in by_quota if row["value"] >= best["low"]]
    chosen = min(enough, key=lambda row: (row["steps_per_block"], -row["value"]))
    budget = [chosen["steps_per_block"]]
    settings = [s for decoder in experiment.decoders for s in settings_of(decoder, budget, experiment.circuit)]
    config = next(setting.config for setting in settings if setting.labels.items() <= chosen.items())
    untold = build_parser().parse_args(["generate", "--proposal", DEFAULT_PROPOSAL])
    options = ["--steps", str(config.steps)]
    for name in TOLD:
        value, usual = getattr(config, name), getattr(untold, name)
        if value not in (None, getattr(DecodingConfig(), name) if usual is None else usual):
            options += [f"--{name.replace('_', '-')}", str(value)]
    return options
