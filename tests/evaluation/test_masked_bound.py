"""The bound on log-likelihoods, against enumerations, joint distributions in closed form, and its own exact value."""

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from codd_lightning.backbones import load_backbone
from codd_lightning.backbones.exact import exact_backbone
from codd_lightning.circuits import HMM, Evidence
from codd_lightning.evaluation.masked_bound import masked_log_likelihood, masks_of
from codd_lightning.tasks import ListTask


def bound(backbone: Any, context: list[int], tokens: list[int], draws: int, seed: int = 0, **options: Any) -> float:
    masks = masks_of(len(tokens), draws, torch.Generator().manual_seed(seed))
    true = torch.tensor(tokens).expand(len(masks.masked), -1)
    before = torch.tensor(context, dtype=torch.long).expand(len(true), -1)
    canvas = torch.cat([before, true.masked_fill(masks.masked, backbone.mask_token_id)], dim=1)
    scores = masked_log_likelihood(backbone, canvas, true, torch.ones_like(canvas), **options)
    return float((masks.weights * scores).sum())


@pytest.mark.parametrize("length", [1, 2, 5])
def test_few_tokens_are_masked_in_every_way_once(length: int) -> None:
    masks = masks_of(length, 2**length - 1, torch.Generator())
    assert len({tuple(row) for row in masks.masked.tolist()}) == 2**length - 1
    assert masks.masked.any(-1).all()


def test_drawn_masks_count_every_token_once_on_average() -> None:
    draws = [masks_of(7, 10, torch.Generator().manual_seed(seed)) for seed in range(2000)]
    counts = torch.stack([(d.weights[:, None] * d.masked).sum(0) for d in draws])  # (2000, 7)
    error = counts.std(0) / math.sqrt(len(counts))
    assert ((counts.mean(0) - 1.0).abs() < 4.5 * error).all()


def test_drawn_masks_have_every_size_equally_often() -> None:
    sizes = masks_of(6, 30, torch.Generator().manual_seed(3)).masked.sum(-1)
    assert sizes.bincount(minlength=7).tolist() == [0, 5, 5, 5, 5, 5, 5]


def test_the_bound_is_the_mean_over_sizes_and_sets() -> None:
    backbone = load_backbone("codd_tiny")
    context, tokens = [5, 6, 7], [20, 9, 31, 12]
    expected = 0.0
    for size in range(1, 5):
        sets = list(itertools.combinations(range(4), size))
        for chosen in sets:
            canvas = context + [backbone.mask_token_id if i in chosen else t for i, t in enumerate(tokens)]
            logits = backbone(torch.tensor([canvas]))[0, 3:].detach()
            logits[:, backbone.mask_token_id] = -math.inf
            log_probs = logits.log_softmax(-1)
            total = sum(float(log_probs[i, tokens[i]]) for i in chosen)
            expected += 4 / size * total / len(sets) / 4
    assert bound(backbone, context, tokens, draws=15) == pytest.approx(expected, rel=1e-5)


def test_the_estimate_converges_to_the_exact_bound() -> None:
    backbone = load_backbone("codd_tiny")
    context, tokens = [5, 6, 7], [20, 9, 31, 12, 40]
    exact = bound(backbone, context, tokens, draws=31)
    estimates = torch.tensor([bound(backbone, context, tokens, draws=6, seed=seed) for seed in range(150)])
    assert estimates.std() > 0
    assert abs(float(estimates.mean()) - exact) < 4 * float(estimates.std()) / math.sqrt(150)


@pytest.mark.parametrize("kind", ["insert", "shuffle"])
def test_true_conditionals_give_the_likelihood_itself(kind: str) -> None:
    task = ListTask(kind, items=3)
    backbone = exact_backbone(task)
    example = task.example("test", 0, 0)
    context = backbone.tokenizer(example.prompt)["input_ids"]
    tokens = backbone.tokenizer(example.response)["input_ids"]
    expected = -math.log(len(task.answers(example.prompt)))
    assert bound(backbone, context, tokens, draws=2 ** len(tokens) - 1) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("block_length", [5, 3])
def test_with_a_circuit_and_a_backbone_that_knows_nothing_the_bound_is_the_circuits_own_likelihood(
    block_length: int, random_hmm: Callable[..., HMM], fixed_logits: type[Any]
) -> None:
    hmm, tokens = random_hmm(4, 6, 5, seed=1), [2, 2, 0, 4, 1]
    backbone = fixed_logits(torch.zeros(6), mask_token_id=5)

    def own(block: Tensor) -> float:
        evidence = Evidence.from_logits(torch.zeros(1, len(block), 6), torch.full((1, len(block)), 5), 5)
        return float(hmm.log_joint(block[None], evidence) - hmm.log_partition(evidence))

    expected = sum(own(block) for block in torch.tensor(tokens).split(block_length))
    found = bound(backbone, [1, 3], tokens, draws=31, circuit=hmm, block_length=block_length)
    assert found == pytest.approx(expected, abs=1e-4)


def test_a_circuit_without_coupling_changes_nothing(neutral_hmm: Callable[..., HMM]) -> None:
    backbone = load_backbone("codd_tiny")
    circuit = neutral_hmm(3, backbone.vocab_size, 4)
    context, tokens = [5, 6], [20, 9, 31, 12, 40]
    alone = bound(backbone, context, tokens, draws=31)
    assert bound(backbone, context, tokens, draws=31, circuit=circuit, block_length=4) == pytest.approx(alone, rel=1e-5)


def test_truncated_evidence_keeps_the_true_tokens(random_hmm: Callable[..., HMM]) -> None:
    backbone = load_backbone("codd_tiny")
    circuit = random_hmm(3, backbone.vocab_size, 4)
    context, tokens = [5, 6], [20, 9, 31]
    whole = bound(backbone, context, tokens, draws=7, circuit=circuit, block_length=4)
    all_but_one = bound(
        backbone, context, tokens, draws=7, circuit=circuit, block_length=4, top_k=backbone.vocab_size - 2
    )
    assert all_but_one == pytest.approx(whole, rel=1e-3)
    assert math.isfinite(bound(backbone, context, tokens, draws=7, circuit=circuit, block_length=4, top_k=1))


def test_where_the_circuit_rules_everything_out_the_backbone_scores_alone(fixed_logits: type[Any]) -> None:
    point = torch.tensor([[1.0, 0.0, 0.0, 0.0]])
    only_zero = HMM.from_probabilities(torch.ones(1), torch.ones(1, 1), point, 2)
    logits = torch.tensor([-math.inf, 0.0, 0.0, -math.inf])
    backbone = fixed_logits(logits, mask_token_id=3)
    assert bound(backbone, [1], [2], draws=1, circuit=only_zero, block_length=2) == pytest.approx(-math.log(2))
