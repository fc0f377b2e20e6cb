"""Starts of a circuit: what each one is, and which of several is kept."""

from pathlib import Path

import pytest
import torch

from codd_lightning.backbones import load_backbone
from codd_lightning.circuits import HMM, Circuit, Mixture, Tree, load_circuit, save_circuit
from codd_lightning.data import TaskDataModule
from codd_lightning.errors import UserError
from codd_lightning.evaluation import evaluate_likelihood
from codd_lightning.modules import Initialization, Noise
from codd_lightning.modules.blocks import response_blocks
from codd_lightning.modules.initialization import k_means
from codd_lightning.tasks import WordedSums

NOISE = Noise("uniform", 32, 0.0, 0)


@pytest.fixture(scope="module")
def backbone():
    return load_backbone("codd_tiny")


@pytest.fixture(scope="module")
def data(backbone) -> TaskDataModule:
    return TaskDataModule(
        WordedSums(2, 3), backbone.tokenizer, backbone.eos_token_ids[0], block_length=32, batch_size=32,
        train_size=256, validation_size=64, test_size=64, max_prompt_tokens=96, max_response_tokens=64,
    )  # fmt: skip


def gain(circuit: Circuit, backbone, data: TaskDataModule) -> float:
    """Held-out gain over the factorized likelihood, of the most masked blocks."""
    rows = evaluate_likelihood(backbone, data, NOISE, circuit=circuit, examples=64, batch_size=32, split="test")
    return [row["value"] for row in rows if row["name"] == "cll_gain"][-1]


def test_a_uniform_start_is_the_backbone_itself(backbone, data: TaskDataModule) -> None:
    hmm = HMM(8, backbone.vocab_size, 32)
    assert abs(gain(hmm, backbone, data)) > 1e-3
    Initialization("uniform")(hmm, backbone, data, NOISE)
    assert gain(hmm, backbone, data) == pytest.approx(0.0, abs=1e-5)


def held_out_log_likelihood(circuit: Circuit, data: TaskDataModule) -> float:
    """Of clean held-out blocks, nats per token, under the circuit alone."""
    batch = data.collate([data.dataset("test")[i] for i in range(64)])
    with torch.no_grad():
        return float(circuit.log_prob(response_blocks(batch, batch.input_ids, 32)).mean()) / 32


@pytest.mark.parametrize("structure", [HMM, Mixture, Tree])
def test_clusters_of_hidden_states_say_more_of_held_out_text_than_token_frequencies(
    structure: type[HMM], backbone, data: TaskDataModule
) -> None:
    circuit, unigram = structure(32, backbone.vocab_size, 32), HMM(1, backbone.vocab_size, 32)
    Initialization("hidden_states", examples=256)(unigram, backbone, data, NOISE)
    Initialization("hidden_states", examples=256)(circuit, backbone, data, NOISE)
    assert held_out_log_likelihood(circuit, data) > held_out_log_likelihood(unigram, data) + 0.2


def test_the_best_of_several_starts_is_kept(
    backbone, data: TaskDataModule, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts = {}

    def record(circuit: Circuit, held_out) -> float:
        number = len(starts)
        starts[number] = circuit
        return [-3.0, -1.0, -2.0][number]

    monkeypatch.setattr("codd_lightning.modules.initialization._mean_cll", record)
    hmm, second = HMM(4, backbone.vocab_size, 32), HMM(4, backbone.vocab_size, 32)
    Initialization("random", restarts=3, trial_steps=1, examples=32)(hmm, backbone, data, NOISE)
    monkeypatch.undo()
    drawn = []
    monkeypatch.setattr(HMM, "reset_parameters", lambda self, generator: drawn.append(generator.initial_seed()))
    Initialization("random", restarts=3, trial_steps=1, examples=32)(second, backbone, data, NOISE)
    monkeypatch.undo()
    second.reset_parameters(torch.Generator().manual_seed(drawn[1]))
    save_circuit(second, tmp_path)
    for name, value in load_circuit(tmp_path).state_dict().items():
        assert torch.equal(value, hmm.state_dict()[name]), name


def test_the_same_seed_gives_the_same_start(backbone, data: TaskDataModule) -> None:
    starts = [HMM(8, backbone.vocab_size, 32) for _ in range(2)]
    for hmm in starts:
        Initialization("hidden_states", examples=64)(hmm, backbone, data, NOISE)
    for one, other in zip(*(hmm.parameters() for hmm in starts), strict=True):
        assert torch.equal(one, other)


def test_k_means_finds_groups_that_lie_apart() -> None:
    generator = torch.Generator().manual_seed(0)
    groups = torch.arange(3).repeat_interleave(20)
    points = 100.0 * torch.eye(3)[groups] + torch.randn(60, 3, generator=generator)
    found = k_means(points, 3, torch.Generator().manual_seed(1))
    assert len({(int(a), int(b)) for a, b in zip(groups, found, strict=True)}) == 3


@pytest.mark.parametrize("kind", ["magic", ""])
def test_an_unknown_kind_is_refused(kind: str) -> None:
    with pytest.raises(UserError, match=f"initialization.kind={kind} is not one of"):
        Initialization(kind)
