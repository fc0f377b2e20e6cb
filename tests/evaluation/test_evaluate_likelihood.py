"""Measured likelihoods against sums over every completion."""

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
import whole_data
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast
from whole_data import EOS

from codd_lightning.backbones import as_backbone
from codd_lightning.circuits import HMM
from codd_lightning.data import TaskDataModule
from codd_lightning.errors import UserError
from codd_lightning.evaluation import evaluate_likelihood
from codd_lightning.evaluation.likelihood import sequential_log_likelihood
from codd_lightning.modules import Noise

BLOCK, VOCABULARY = 3, 24
BUCKETS = [[0.0, 0.25], [0.25, 0.5], [0.5, 0.75], [0.75, 1.0]]


def text(*numbers: int) -> str:
    return " ".join(f"w{i}" for i in numbers)


def data_of(task: Any, words: PreTrainedTokenizerFast, length: int = BLOCK, padding: str = "canvas") -> TaskDataModule:
    return whole_data.data_of(task, words, BLOCK, length, response_padding=padding)


def some_logits(length: int, seed: int = 0) -> Tensor:
    return torch.randn(length, VOCABULARY, generator=torch.Generator().manual_seed(seed))


def backbone_table(logits: Tensor, mask_token_id: int) -> Tensor:
    weights = logits.double().exp()
    weights[:, mask_token_id] = 0.0
    return weights / weights.sum(-1, keepdim=True)


def circuit_table(hmm: HMM) -> Tensor:
    """`p_ω` of every block of three tokens, `(V, V, V)`, state by state."""
    initial, transition, emission = (p.double() for p in hmm.probabilities())
    table = torch.zeros(VOCABULARY, VOCABULARY, VOCABULARY, dtype=torch.float64)
    for a, b, c in itertools.product(range(hmm.num_states), repeat=3):
        weight = initial[a] * transition[a, b] * transition[b, c]
        table += weight * torch.einsum("x,y,z->xyz", emission[a], emission[b], emission[c])
    return table


def values(rows: list[dict[str, Any]]) -> dict[str, float]:
    return {row["name"]: row["value"] for row in rows}


def test_fully_masked_blocks_are_measured_as_listing_every_completion_says(
    listed_task: Callable[..., Any],
    words: PreTrainedTokenizerFast,
    fixed_logits: Callable[..., Any],
    random_hmm: Callable[..., HMM],
) -> None:
    responses = [(4,), (5, 6), (7,), ()]
    data = data_of(listed_task(test=[(text(0), text(*r)) for r in responses]), words)
    hmm = random_hmm(2, VOCABULARY, BLOCK)
    rows = evaluate_likelihood(
        as_backbone(fixed_logits(some_logits(BLOCK), words.mask_token_id, [EOS])),
        data,
        Noise(block_length=BLOCK, fully_masked=1.0),
        circuit=hmm,
        examples=4,
        batch_size=3,
        split="test",
    )
    weights = backbone_table(some_logits(BLOCK), words.mask_token_id)
    joint = circuit_table(hmm) * torch.einsum("x,y,z->xyz", *weights)
    joint /= joint.sum()
    factorized = coupled = tokens = 0.0
    for response in responses:
        ids = [*words.convert_tokens_to_ids([f"w{i}" for i in response]), EOS]  # what follows is not counted
        tokens += len(ids)
        factorized -= float(weights[range(len(ids)), ids].log().sum())
        coupled -= float(joint[tuple(ids)].sum().log())
    assert [row["mask_ratio"] for row in rows] == [BUCKETS[-1]] * 3
    assert {(row["n"], row["unit"], row["split"]) for row in rows} == {(int(tokens), "nats/token", "test")}
    assert values(rows) == {
        "nll_factorized": pytest.approx(factorized / tokens, rel=1e-5),
        "nll_coupled": pytest.approx(coupled / tokens, rel=1e-5),
        "cll_gain": pytest.approx((factorized - coupled) / tokens, abs=1e-5),
    }
    assert all(row["low"] <= row["value"] <= row["high"] for row in rows)


@pytest.mark.parametrize("padding", ["canvas", "block"])
def test_nothing_after_the_first_eos_is_counted_in_any_block(
    padding: str, listed_task: Callable[..., Any], words: PreTrainedTokenizerFast, fixed_logits: Callable[..., Any]
) -> None:
    responses = [(4,), (5, 6, 7, 8), (4, 5), (6, 7, 8)]
    data = data_of(listed_task(test=[(text(0), text(*r)) for r in responses]), words, length=9, padding=padding)
    rows = evaluate_likelihood(
        as_backbone(fixed_logits(torch.zeros(VOCABULARY), words.mask_token_id, [EOS])),
        data,
        Noise(block_length=BLOCK, fully_masked=1.0),
        examples=4,
        batch_size=1,
        split="test",
    )
    assert sum(row["n"] for row in rows) == sum(len(r) + 1 for r in responses)


@pytest.mark.parametrize("canvas", ["uniform", "block"])
def test_a_neutral_circuit_gains_nothing_at_any_mask_ratio(
    canvas: str,
    listed_task: Callable[..., Any],
    words: PreTrainedTokenizerFast,
    fixed_logits: Callable[..., Any],
    neutral_hmm: Callable[..., HMM],
) -> None:
    data = data_of(listed_task(test=[(text(i % 5), text(i % 7, i % 3, i % 11, i % 2, 4)) for i in range(40)]), words, 9)
    rows = evaluate_likelihood(
        as_backbone(fixed_logits(some_logits(9), words.mask_token_id, [EOS])),
        data,
        Noise(canvas=canvas, block_length=BLOCK),
        circuit=neutral_hmm(3, VOCABULARY, BLOCK),
        examples=40,
        batch_size=16,
        split="test",
    )
    assert [row["mask_ratio"] for row in rows if row["name"] == "cll_gain"] == BUCKETS[1:]  # thirds of a block
    for row in rows:
        if row["name"] == "cll_gain":
            assert [row["value"], row["low"], row["high"]] == pytest.approx([0.0, 0.0, 0.0], abs=1e-6)


def test_without_circuit_only_the_backbone_is_measured(
    listed_task: Callable[..., Any], words: PreTrainedTokenizerFast, fixed_logits: Callable[..., Any]
) -> None:
    data = data_of(listed_task(test=[(text(0), text(1))] * 12), words)
    backbone = as_backbone(fixed_logits(some_logits(BLOCK), words.mask_token_id, [EOS]))
    rows = evaluate_likelihood(backbone, data, Noise(block_length=BLOCK), examples=12, batch_size=4, split="test")
    assert {row["name"] for row in rows} == {"nll_factorized"}


@pytest.mark.parametrize("canvas", ["uniform", "block", "mixed"])
def test_no_number_depends_on_the_batch_size(
    canvas: str,
    listed_task: Callable[..., Any],
    words: PreTrainedTokenizerFast,
    fixed_logits: Callable[..., Any],
    random_hmm: Callable[..., HMM],
) -> None:
    prompts = [(0,), (0, 1, 2), (0, 1), (0, 1, 2, 3, 4), (0,), (0, 1), (0, 1, 2), (0,)]
    data = data_of(listed_task(test=[(text(*p), text(*p[:4], 6)) for p in prompts]), words, length=9)

    def measured(batch_size: int) -> list[Any]:
        rows = evaluate_likelihood(
            as_backbone(fixed_logits(some_logits(9), words.mask_token_id, [EOS])),
            data,
            Noise(canvas=canvas, block_length=BLOCK),
            circuit=random_hmm(3, VOCABULARY, BLOCK),
            examples=len(prompts),
            batch_size=batch_size,
            split="test",
        )
        return [(row["name"], row["mask_ratio"], row["n"], pytest.approx(row["value"], abs=1e-5)) for row in rows]

    assert measured(1) == measured(3) == measured(8)


def test_truncated_evidence_of_the_whole_vocabulary_changes_nothing(
    listed_task: Callable[..., Any],
    words: PreTrainedTokenizerFast,
    fixed_logits: Callable[..., Any],
    random_hmm: Callable[..., HMM],
) -> None:
    data = data_of(listed_task(test=[(text(0), text(i, i)) for i in range(10)]), words)

    def measured(top_k: int | None) -> list[float]:
        rows = evaluate_likelihood(
            as_backbone(fixed_logits(some_logits(BLOCK), words.mask_token_id, [EOS])),
            data,
            Noise(block_length=BLOCK),
            circuit=random_hmm(3, VOCABULARY, BLOCK),
            examples=10,
            batch_size=5,
            split="test",
            evidence_top_k=top_k,
        )
        return [row["value"] for row in rows]

    assert measured(VOCABULARY) == measured(None)
    assert measured(2) != measured(None)


def test_a_module_with_forward_and_four_attributes_will_do(
    listed_task: Callable[..., Any], words: PreTrainedTokenizerFast, fixed_logits: Callable[..., Any]
) -> None:
    data = data_of(listed_task(test=[(text(0), text(1))] * 4), words)
    backbone = fixed_logits(some_logits(BLOCK), words.mask_token_id, [EOS])
    options: dict[str, Any] = {"examples": 4, "batch_size": 4, "split": "test"}
    rows = evaluate_likelihood(backbone, data, Noise(block_length=BLOCK), **options)
    assert rows == evaluate_likelihood(as_backbone(backbone), data, Noise(block_length=BLOCK), **options)


def test_more_examples_than_there_are_is_refused(
    listed_task: Callable[..., Any], words: PreTrainedTokenizerFast, fixed_logits: Callable[..., Any]
) -> None:
    data = data_of(listed_task(test=[(text(0), text(1))]), words)
    backbone = as_backbone(fixed_logits(some_logits(BLOCK), words.mask_token_id, [EOS]))
    with pytest.raises(UserError, match=r"evaluation\.likelihood_examples=2 .*1 examples of the test split"):
        evaluate_likelihood(backbone, data, Noise(block_length=BLOCK), examples=2, batch_size=1, split="test")


class Conditional(nn.Module):
    """A backbone over a known joint of two binary words, `p(x, y)`: it answers the true conditional marginals."""

    tokenizer = None

    def __init__(self, joint: Tensor, mask_token_id: int, words_of: list[int]):
        super().__init__()
        self.joint, self.mask_token_id, self.words_of = joint, mask_token_id, words_of
        self.vocab_size, self.eos_token_ids = VOCABULARY, [EOS]

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        logits = torch.full((*input_ids.shape, VOCABULARY), -30.0)
        logits[:, -1, EOS] = 30.0
        for row, ids in enumerate(input_ids.tolist()):
            x, y = ids[-3:-1]
            fits = self.joint.clone()
            for axis, known in ((0, x), (1, y)):
                if known != self.mask_token_id:
                    other = 1 - self.words_of.index(known)
                    fits.index_fill_(axis, torch.tensor([other]), 0.0)
            for place, marginal in ((-3, fits.sum(1)), (-2, fits.sum(0))):
                logits[row, place, self.words_of] = (marginal / marginal.sum()).log().clamp_min(-30)
        return logits


def test_the_sequential_likelihood_of_a_true_backbone_is_that_of_the_joint(
    listed_task: Callable[..., Any], words: PreTrainedTokenizerFast
) -> None:
    joint = torch.tensor([[0.5, 0.1], [0.15, 0.25]])
    ids = words.convert_tokens_to_ids(["w5", "w6"])
    answers = [(x, y) for x in (0, 1) for y in (0, 1)]
    data = data_of(listed_task(test=[(text(0), text(5 + x, 5 + y)) for x, y in answers]), words)
    rows = evaluate_likelihood(
        as_backbone(Conditional(joint, words.mask_token_id, ids)),
        data,
        Noise(block_length=BLOCK, fully_masked=1.0),
        examples=4,
        batch_size=3,
        split="test",
        sequential=True,
    )
    found = values(rows)
    tokens = 4 * 3  # two words and the EOS, which is certain
    assert found["nll_sequential"] == pytest.approx(-float(joint.log().sum()) / tokens, abs=1e-5)
    marginals = [joint.sum(1)[x].log() + joint.sum(0)[y].log() for x, y in answers]
    factorized = -float(torch.stack(marginals).sum()) / tokens
    assert found["nll_factorized"] == pytest.approx(factorized, abs=1e-5)
    gap = found["nll_factorized"] - found["nll_sequential"]
    assert found["misspecification_gap"] == pytest.approx(gap, abs=1e-6)


def test_the_surest_token_is_revealed_first(listed_task: Callable[..., Any], words: PreTrainedTokenizerFast) -> None:
    """Each word is counted with what was revealed before it: the order shows in the parts, not in the sum."""
    joint = torch.tensor([[0.01, 0.04], [0.05, 0.9]])  # x is surer than y
    ids = words.convert_tokens_to_ids(["w5", "w6"])
    data = data_of(listed_task(test=[(text(0), text(6, 5))]), words)
    backbone = as_backbone(Conditional(joint, words.mask_token_id, ids))
    batch = data.collate([data.dataset("test")[0]])
    noised = Noise(block_length=BLOCK, fully_masked=1.0)(batch, words.mask_token_id, 0, "test")
    found = sequential_log_likelihood(backbone, batch, noised)[0, -3:-1]
    assert found[0].exp() == pytest.approx(0.95, abs=1e-5)  # p(x)
    assert found[1].exp() == pytest.approx(0.05 / 0.95, abs=1e-5)  # p(y | x)
