"""What a circuit did to a response: who chose each token, and the pairs it raised, against enumeration."""

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from codd_lightning.circuits import HMM, Circuit, Evidence, Posterior
from codd_lightning.decoding import DecodingConfig, generate
from codd_lightning.evaluation import explain
from codd_lightning.evaluation.explain import block_evidence, commits, raised_pairs

VOCAB, LENGTH, MASK = 4, 4, 4


def some_evidence(seed: int, known: int | None = None) -> Evidence:
    """Random logits of one block, with token 1 known at one position."""
    logits = torch.randn(1, LENGTH, VOCAB, generator=torch.Generator().manual_seed(seed))
    tokens = torch.full((1, LENGTH), MASK)
    if known is not None:
        tokens[0, known] = 1
    return Evidence.from_logits(logits, tokens, MASK)


def enumerated(circuit: Circuit, evidence: Evidence) -> dict[tuple[int, int, int, int], tuple[float, float]]:
    """`(i, j, a, b)` to the joint under circuit × evidence and the backbone's product, by summing over everything."""
    completions = torch.tensor(list(itertools.product(range(VOCAB), repeat=LENGTH)))
    backbone = evidence.weights[0]
    mass = circuit.log_prob(completions).double().exp()
    for i in range(LENGTH):
        known = bool(evidence.observed[0, i])
        mass *= (completions[:, i] == evidence.tokens[0, i]) if known else backbone[i, completions[:, i]]
    mass /= mass.sum()
    soft = [i for i in range(LENGTH) if not evidence.observed[0, i]]
    return {
        (i, j, a, b): (
            float(mass[(completions[:, i] == a) & (completions[:, j] == b)].sum()),
            float(backbone[i, a] * backbone[j, b]),
        )
        for i, j in itertools.combinations(soft, 2)
        for a in range(VOCAB)
        for b in range(VOCAB)
    }


@pytest.mark.parametrize("known", [None, 0, 2])
@pytest.mark.parametrize("count", [6, 1000])
@pytest.mark.parametrize("table", [1 << 24, 1])  # everything at once, or a token after another
def test_raised_pairs_are_those_that_enumeration_finds(
    random_hmm: Callable[..., HMM], monkeypatch: pytest.MonkeyPatch, known: int | None, table: int, count: int
) -> None:
    monkeypatch.setattr(explain, "LARGEST_TABLE", table)
    circuit, evidence, least = random_hmm(3, VOCAB, LENGTH, seed=5), some_evidence(7, known), 0.05
    gains = {
        key: joint * math.log(joint / product)
        for key, (joint, product) in enumerated(circuit, evidence).items()
        if joint >= least
    }
    expected = sorted((key for key, gain in gains.items() if gain > explain.LEAST_GAIN), key=lambda key: -gains[key])[
        :count
    ]
    found = raised_pairs(circuit, evidence, count, least)
    assert [(*pair.positions, *pair.tokens) for pair in found] == expected
    assert len(found) > 2
    for pair in found:
        joint, product = enumerated(circuit, evidence)[(*pair.positions, *pair.tokens)]
        assert pair.coupled == pytest.approx(joint, rel=1e-4)
        assert pair.factorized == pytest.approx(product, rel=1e-4)


def test_evidence_that_is_cut_to_everything_raises_the_same_pairs(random_hmm: Callable[..., HMM]) -> None:
    circuit, dense = random_hmm(3, VOCAB, LENGTH, seed=5), some_evidence(7)
    logits, tokens = dense.weights.log(), torch.full((1, LENGTH), MASK)
    cut = Evidence.from_logits(logits, tokens, MASK, top_k=VOCAB - 1, tail=False)
    kept = {(i, int(t)) for i in range(LENGTH) for t in cut.token_ids[0, i]}  # type: ignore[index]
    for pair in raised_pairs(circuit, cut, 6):
        assert set(zip(pair.positions, pair.tokens, strict=True)) <= kept


def test_a_circuit_that_couples_nothing_raises_nothing(neutral_hmm: Callable[..., HMM]) -> None:
    assert raised_pairs(neutral_hmm(3, VOCAB, LENGTH), some_evidence(7), 6) == []


def san_york() -> tuple[torch.Tensor, HMM]:
    """A backbone torn between 0 1 and 2 3, a little for 0 and for 3, and a circuit that knows little else."""
    said = torch.tensor([[0.55, 0.0, 0.45, 0.0, 0.0], [0.0, 0.45, 0.0, 0.55, 0.0]]).clamp_min(1e-6).log()
    initial, follows, emission = torch.zeros(4), torch.zeros(4, 4), torch.eye(4, 5)
    initial[[0, 2]] = torch.tensor([0.6, 0.4])
    follows[[0, 1, 2, 3], [1, 0, 3, 2]] = 1.0
    parts = [(part + 1e-3) / (part + 1e-3).sum(-1, keepdim=True) for part in (initial, follows, emission)]
    return said, HMM.from_probabilities(*parts, 2).requires_grad_(False)


def test_a_token_is_changed_where_the_backbone_would_have_taken_another(fixed_logits: type) -> None:
    said, circuit = san_york()
    backbone = fixed_logits(said, mask_token_id=4)
    config = DecodingConfig(steps=1, max_new_tokens=2, block_length=2, trace=True)
    coupled = commits(generate(backbone, [[1]], config, circuit=circuit))
    assert [(commit.token, commit.expected, commit.changed) for commit in coupled] == [(0, 0, False), (1, 3, True)]
    assert [(commit.position, commit.step, commit.coupled) for commit in coupled] == [(0, 1, True), (1, 1, True)]
    alone = commits(generate(backbone, [[1]], config.replace(proposal="factorized")))
    assert [(commit.token, commit.expected, commit.changed) for commit in alone] == [(0, 0, False), (3, 3, False)]


def test_what_the_backbone_alone_committed_is_not_changed(fixed_logits: type) -> None:
    said, circuit = san_york()
    config = DecodingConfig(steps=2, max_new_tokens=2, block_length=2, gamma=0.5, temperature=50.0, trace=True)
    seeds = [torch.Generator().manual_seed(seed) for seed in range(20)]
    written = generate(fixed_logits(said, mask_token_id=4), [[1]] * 20, config, circuit=circuit, generator=seeds)
    first = [commits(written, row)[0] for row in range(20)]
    assert not any(commit.coupled or commit.changed for commit in first)
    assert any(commit.token != commit.expected for commit in first)  # it was drawn


def test_commits_are_the_response_of_each_row(fixed_logits: type, random_hmm: Callable[..., HMM]) -> None:
    logits = torch.randn(8, 6, generator=torch.Generator().manual_seed(1))
    config = DecodingConfig(steps=6, max_new_tokens=8, block_length=4, trace=True)
    written = generate(fixed_logits(logits, mask_token_id=5), [[1, 2], [3]], config, circuit=random_hmm(3, 6, 4))
    for row, prompt in enumerate(([1, 2], [3])):
        found = commits(written, row)
        assert [c.token for c in sorted(found, key=lambda c: c.position)] == written.sequences[row][len(prompt) :]
        assert [c.step for c in found] == sorted(c.step for c in found)
        assert {c.step for c in found} == set(range(1, 7))


@pytest.mark.parametrize("cfg_scale", [0.0, 0.5])
def test_windows_of_one_step_have_its_number(
    fixed_logits: type, random_hmm: Callable[..., HMM], cfg_scale: float
) -> None:
    logits = torch.randn(12, 6, generator=torch.Generator().manual_seed(1))
    config = DecodingConfig(
        paradigm="full", steps=4, max_new_tokens=12, block_length=4, gamma=0.7, cfg_scale=cfg_scale, trace=True
    )
    written = generate(fixed_logits(logits, mask_token_id=5), [[1]], config, circuit=random_hmm(3, 6, 4))
    assert written.trace is not None
    assert len(written.trace) > 4  # in some steps the circuit acts on one window and not on another
    assert [commit.step for commit in commits(written)] == [1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4]


class Listening(nn.Module):
    """A backbone whose word depends on the whole canvas."""

    mask_token_id, vocab_size, eos_token_ids, tokenizer = 5, 6, (), None

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        place = torch.arange(input_ids.shape[1])[:, None] * 7.0 + torch.arange(6) * 3.0
        return (place + input_ids.sum(-1)[:, None, None]).sin() * 3


def test_block_evidence_is_what_the_circuit_was_asked_with_first(
    random_hmm: Callable[..., HMM], monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone, circuit = Listening(), random_hmm(3, 6, 4)
    asked: list[Evidence] = []
    answer = HMM.posterior

    def remember(self: HMM, evidence: Evidence) -> Posterior:
        asked.append(evidence)
        return answer(self, evidence)

    monkeypatch.setattr(HMM, "posterior", remember)
    config = DecodingConfig(steps=4, max_new_tokens=8, block_length=4, evidence_top_k=3, trace=True)
    written = generate(backbone, [[1, 2]], config, circuit=circuit)
    found = list(block_evidence(backbone, [1, 2], config, written))
    assert len(asked) == 4
    for one, other in zip(found, [asked[0], asked[2]], strict=True):
        assert torch.equal(one.weights, other.weights)
        assert torch.equal(one.tokens, other.tokens)
        assert not one.observed.any()
