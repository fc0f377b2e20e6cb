"""Every experiment that needs nothing from outside builds, and is feasible as it is shipped."""

import pytest

from codd_lightning.circuits import CircuitError, Seen
from codd_lightning.cli.build import build
from codd_lightning.cli.compose import EXPERIMENTS, compose_experiment
from codd_lightning.cli.feasible import require_feasible
from codd_lightning.errors import UserError

# data of the Hub or the user, and backbones trained here
FROM_OUTSIDE = {"gsm8k_backbone", "gsm8k_circuit", "laptop", "parallelbench"}
SMALLER = {"tiny_backbone": ["backbone.tokenizer_examples=200"]}


@pytest.mark.parametrize("name", sorted({path.stem for path in EXPERIMENTS.glob("*.yaml")} - FROM_OUTSIDE))
def test_a_shipped_experiment_builds(name: str) -> None:
    config = compose_experiment(name, SMALLER.get(name, []))
    require_feasible(config, build(config))


def test_a_circuit_of_the_tokens_seen_has_those_of_the_training_responses() -> None:
    built = build(compose_experiment("smoke", ["circuit.vocabulary=seen", "circuit.num_states=8"]))
    assert isinstance(built.circuit, Seen)
    seen = {token for row in built.data.dataset("train") for token in row.response}
    assert built.circuit.vocabulary.token_ids == sorted(seen)
    assert built.backbone.eos_token_ids[0] in seen
    assert built.circuit.vocab_size == built.backbone.vocab_size
    limited = ["circuit.vocabulary=seen", "circuit.max_parameters=1000"]
    circuit = build(compose_experiment("smoke", limited)).circuit
    assert circuit is not None
    assert 900 < sum(p.numel() for p in circuit.parameters()) <= 1000


def test_a_vocabulary_that_does_not_fit_is_refused() -> None:
    with pytest.raises(CircuitError, match="contextual_hmm' reads hidden states, and needs vocabulary=all"):
        build(compose_experiment("smoke", ["circuit=contextual_hmm", "circuit.vocabulary=seen"]))
    with pytest.raises(UserError, match=r"circuit\.vocabulary=some is not one of all, seen"):
        build(compose_experiment("smoke", ["circuit.vocabulary=some"]))
