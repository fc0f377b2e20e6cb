"""Every experiment that needs nothing from outside builds, and is feasible as it is shipped."""

import pytest

from codd_lightning.cli.build import build
from codd_lightning.cli.compose import EXPERIMENTS, compose_experiment
from codd_lightning.cli.feasible import require_feasible

# data of the Hub or the user, and backbones trained here
FROM_OUTSIDE = {"gsm8k_backbone", "gsm8k_circuit", "parallelbench"}
SMALLER = {"tiny_backbone": ["backbone.tokenizer_examples=200"]}


@pytest.mark.parametrize("name", sorted({path.stem for path in EXPERIMENTS.glob("*.yaml")} - FROM_OUTSIDE))
def test_a_shipped_experiment_builds(name: str) -> None:
    config = compose_experiment(name, SMALLER.get(name, []))
    require_feasible(config, build(config))
