import dataclasses

import pytest
import torch
from hypothesis import given
from torch import Tensor
from torch.testing import assert_close

from codd_lightning.circuits import Evidence, EvidenceError

from .strategies import SETTINGS, Case, cases, make_case, random_hmm

CLOSE = {"atol": 1e-12, "rtol": 1e-12}
MASK = 6  # outside a vocabulary of 6


def random_logits(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return (2 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)).to(dtype)


def all_masked(batch_size: int, length: int, mask_token_id: int = MASK) -> Tensor:
    return torch.full((batch_size, length), mask_token_id)


# What the weights are


@SETTINGS
@given(case=cases(potentials=False))
def test_weights_are_those_of_the_definition(case: Case) -> None:
    known = case.evidence.observed & ~torch.from_numpy(case.absent)
    found = case.evidence.dense_weights().masked_fill(known[..., None], 0.0)
    expected = torch.from_numpy(case.weights).masked_fill(known[..., None], 0.0)
    assert_close(found, expected, **CLOSE)


@SETTINGS
@given(case=cases(potentials=False))
def test_weights_of_one_position_per_row_are_rows_of_all_weights(case: Case) -> None:
    positions = case.random_tokens()[:, 0] % case.evidence.length
    rows = torch.arange(len(positions))
    assert torch.equal(case.evidence.dense_weights(positions), case.evidence.dense_weights()[rows, positions])


@SETTINGS
@given(case=cases(potentials=False))
def test_log_weight_is_the_product_of_the_weights(case: Case) -> None:
    tokens = case.random_tokens()
    where = torch.rand(case.shape, generator=torch.Generator().manual_seed(case.seed)) < 0.6
    logs = torch.from_numpy(case.weights).gather(-1, tokens[..., None]).squeeze(-1).log()
    assert_close(case.evidence.log_weight(tokens), logs.sum(-1), **CLOSE)
    assert_close(case.evidence.log_weight(tokens, where), logs.masked_fill(~where, 0.0).sum(-1), **CLOSE)


def test_temperature_divides_the_logits() -> None:
    logits = random_logits(2, 3, 6)
    sharpened = Evidence.from_logits(logits, all_masked(2, 3), MASK, temperature=0.25)
    assert_close(sharpened.weights, (4 * logits).softmax(-1), **CLOSE)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("top_k", [None, 3])
def test_half_precision_logits_are_normalised_in_float32(dtype: torch.dtype, top_k: int | None) -> None:
    logits = random_logits(2, 3, 6, dtype=dtype)
    half = Evidence.from_logits(logits, all_masked(2, 3), MASK, top_k=top_k)
    single = Evidence.from_logits(logits.float(), all_masked(2, 3), MASK, top_k=top_k)
    assert half.weights.dtype == torch.float32
    assert torch.equal(half.dense_weights(), single.dense_weights())
    assert random_hmm(2, 6, 3).float().log_partition(half).isfinite().all()


# Known tokens, absent positions, the mask token


@pytest.mark.parametrize("top_k", [None, 2])
@pytest.mark.parametrize("junk", [torch.nan, torch.inf, -torch.inf, 1e30])
def test_known_tokens_count_one_whatever_their_logits(junk: float, top_k: int | None) -> None:
    hmm, tokens = random_hmm(3, 6, 3), torch.tensor([[2, MASK, 4], [MASK, MASK, 0]])
    clean, junky = random_logits(2, 3, 6), random_logits(2, 3, 6)
    junky[tokens != MASK] = junk
    junky.requires_grad_(True)
    found = hmm.log_partition(Evidence.from_logits(junky, tokens, MASK, top_k=top_k))
    expected = hmm.log_partition(Evidence.from_logits(clean, tokens, MASK, top_k=top_k))
    assert_close(found, expected, **CLOSE)
    (gradient,) = torch.autograd.grad(found.sum(), junky)
    assert gradient.isfinite().all()
    assert (gradient[tokens != MASK] == 0).all()


@pytest.mark.parametrize("top_k", [None, 2])
def test_absent_positions_ignore_their_token_and_their_logits(top_k: int | None) -> None:
    hmm, absent = random_hmm(3, 6, 3), torch.tensor([[False, True, False]])
    logits, junk = random_logits(1, 3, 6), random_logits(1, 3, 6)
    junk[:, 1] = torch.nan
    results = [
        hmm.log_partition(
            Evidence.from_logits(scores, torch.tensor([[MASK, token, 3]]), MASK, top_k=top_k, absent=absent)
        )
        for scores, token in ((logits, MASK), (logits, 1), (logits, 2), (junk, MASK), (junk, 5))
    ]
    for result in results[1:]:
        assert_close(result, results[0], **CLOSE)


@pytest.mark.parametrize("temperature", [0.5, 1.0])
def test_a_mask_token_inside_the_vocabulary_weighs_nothing(temperature: float) -> None:
    logits, mask = random_logits(2, 3, 6), 2
    logits[..., mask] = 50.0  # as an untrained backbone may have it
    evidence = Evidence.from_logits(logits, all_masked(2, 3, mask), mask, temperature)
    others = logits[..., [0, 1, 3, 4, 5]] / temperature
    assert (evidence.weights[..., mask] == 0).all()
    assert_close(evidence.weights[..., [0, 1, 3, 4, 5]], others.softmax(-1), **CLOSE)
    assert (evidence.log_weight(torch.full((2, 3), mask)) == -torch.inf).all()


@pytest.mark.parametrize("top_k", range(1, 6))
@pytest.mark.parametrize("keep_the_mask", [False, True])
def test_a_mask_token_inside_the_vocabulary_weighs_nothing_when_truncated(top_k: int, keep_the_mask: bool) -> None:
    logits, mask = random_logits(2, 3, 6), 2
    logits[..., mask] = 50.0
    keep = torch.full((2, 3), mask if keep_the_mask else 0)
    evidence = Evidence.from_logits(logits, all_masked(2, 3, mask), mask, top_k=top_k, keep=keep)
    weights = evidence.dense_weights()
    assert (weights[..., mask] == 0).all()
    assert_close(weights.sum(-1), torch.ones(2, 3, dtype=torch.float64), **CLOSE)
    assert (evidence.log_weight(torch.full((2, 3), mask)) == -torch.inf).all()


@pytest.mark.parametrize("mask", [6, 126_336, -100])
@pytest.mark.parametrize("top_k", [None, 3])
def test_a_mask_token_outside_the_vocabulary_takes_nothing_from_the_others(mask: int, top_k: int | None) -> None:
    logits = random_logits(2, 3, 6)
    evidence = Evidence.from_logits(logits, all_masked(2, 3, mask), mask, top_k=top_k)
    assert not evidence.observed.any()
    kept = evidence.weights if evidence.token_ids is None else evidence.weights.sum(-1)
    dense = logits.softmax(-1)
    assert_close(kept, dense if top_k is None else dense.topk(3).values.sum(-1), **CLOSE)


@pytest.mark.parametrize("mask", [2, 6, -100])
def test_kept_tokens_may_be_unknown_themselves(mask: int) -> None:
    """Where the true token is not known, `keep` holds the mask token, and there is nothing to keep."""
    logits, tokens = random_logits(1, 2, 6), torch.full((1, 2), mask)
    keep = torch.tensor([[4, mask]])
    evidence = Evidence.from_logits(logits, tokens, mask, top_k=2, keep=keep)
    assert evidence.token_ids is not None
    assert 4 in evidence.token_ids[0, 0]
    best = logits.clone()
    if mask == 2:
        best[..., mask] = -torch.inf
    assert best[0, 1].argmax() in evidence.token_ids[0, 1]


# Truncation


@pytest.mark.parametrize("top_k", range(1, 6))
def test_kept_tokens_are_never_dropped(top_k: int) -> None:
    logits = random_logits(4, 5, 6)
    keep = logits.argmin(-1)  # what truncation would drop first
    evidence = Evidence.from_logits(logits, all_masked(4, 5), MASK, top_k=top_k, keep=keep)
    assert evidence.token_ids is not None
    assert (evidence.token_ids == keep[..., None]).any(-1).all()
    expected = logits.log_softmax(-1).gather(-1, keep[..., None]).squeeze(-1).sum(-1)
    assert_close(evidence.log_weight(keep), expected, **CLOSE)


@pytest.mark.parametrize("top_k", range(1, 6))
@pytest.mark.parametrize("keep", [False, True])
def test_the_largest_tokens_are_kept_in_order_and_the_rest_share_the_missing_mass(top_k: int, keep: bool) -> None:
    logits = random_logits(4, 5, 6)
    kept_one = logits.argmin(-1) if keep else logits.argmax(-1)
    evidence = Evidence.from_logits(logits, all_masked(4, 5), MASK, top_k=top_k, keep=kept_one if keep else None)
    assert evidence.token_ids is not None
    assert evidence.tail is not None
    assert evidence.token_ids.shape == evidence.weights.shape == (4, 5, top_k)
    assert (evidence.token_ids.diff(dim=-1) > 0).all()
    probabilities = logits.softmax(-1)
    assert_close(evidence.weights, probabilities.gather(-1, evidence.token_ids), **CLOSE)
    left_out = probabilities.scatter(-1, evidence.token_ids, 0.0)
    assert_close(evidence.tail * (6 - top_k), left_out.sum(-1), **CLOSE)
    smallest_kept = evidence.weights.masked_fill(evidence.token_ids == kept_one[..., None], torch.inf).amin(-1)
    assert (left_out.amax(-1) <= smallest_kept).all()


@pytest.mark.parametrize("top_k", [6, 7, 100])
def test_keeping_all_tokens_is_dense(top_k: int) -> None:
    logits = random_logits(2, 3, 6)
    evidence = Evidence.from_logits(logits, all_masked(2, 3), MASK, top_k=top_k)
    assert_close(evidence.dense_weights(), logits.softmax(-1), **CLOSE)
    assert_close(random_hmm(3, 6, 3).log_partition(evidence), dense_log_partition(logits), **CLOSE)


def dense_log_partition(logits: Tensor) -> Tensor:
    evidence = Evidence.from_logits(logits, all_masked(*logits.shape[:2]), MASK)
    return random_hmm(3, 6, 3).log_partition(evidence)


def test_truncation_becomes_exact_as_it_keeps_more() -> None:
    logits = random_logits(2, 3, 6)
    logits[..., 4:] = -40.0  # next to nothing
    expected = dense_log_partition(logits)
    evidence = Evidence.from_logits(logits, all_masked(2, 3), MASK, top_k=4)
    assert_close(random_hmm(3, 6, 3).log_partition(evidence), expected, **CLOSE)


def test_conditional_likelihoods_never_exceed_zero_when_the_true_tokens_are_kept() -> None:
    hmm, logits = random_hmm(3, 6, 3), random_logits(50, 3, 6)
    tokens = logits.argmin(-1)
    for top_k in range(1, 7):
        evidence = Evidence.from_logits(logits, all_masked(50, 3), MASK, top_k=top_k, keep=tokens)
        assert (hmm.log_joint(tokens, evidence) < hmm.log_partition(evidence)).all()


# Rows and clamping


@pytest.mark.parametrize("index", [torch.tensor([2, 0, 0]), torch.tensor([True, False, True])])
@pytest.mark.parametrize("top_k", [None, 2])
def test_rows_of_evidence_answer_as_they_did_in_their_batch(index: Tensor, top_k: int | None) -> None:
    case = make_case(random_hmm(3, 6, 4), batch_size=3, absent=0.3, top_k=top_k, potentials=True)
    some = case.evidence.rows(index)
    assert_close(case.hmm.log_partition(some), case.hmm.log_partition(case.evidence)[index], **CLOSE)
    assert torch.equal(some.dense_weights(), case.evidence.dense_weights()[index])


@SETTINGS
@given(case=cases())
def test_clamping_is_evidence_with_those_tokens_known(case: Case) -> None:
    tokens = case.random_tokens()
    where = torch.rand(case.shape, generator=torch.Generator().manual_seed(case.seed)) < 0.5
    afresh = Evidence.from_logits(**{**case.arguments, "tokens": torch.where(where, tokens, case.arguments["tokens"])})
    clamped = case.evidence.clamp(tokens, where)
    assert_close(case.hmm.log_partition(clamped), case.hmm.log_partition(afresh), **CLOSE)
    assert torch.equal(clamped.soft, afresh.soft)


def test_evidence_cannot_be_changed_in_place() -> None:
    evidence = make_case(random_hmm(2, 3, 2)).evidence
    with pytest.raises(dataclasses.FrozenInstanceError):
        evidence.vocab_size = 4  # type: ignore[misc]  # that it is refused is the point


# What does not fit


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"logits": torch.zeros(2, 6)}, r"floating \(B, L, V\).*\(2, 6\)"),
        ({"logits": torch.zeros(2, 3, 6, dtype=torch.long)}, "floating.*torch.int64"),
        ({"tokens": torch.full((2, 4), MASK)}, r"tokens must have shape \(2, 3\).*\(2, 4\)"),
        ({"tokens": torch.full((3,), MASK)}, r"tokens must have shape \(2, 3\)"),
        ({"tokens": torch.full((2, 3), float(MASK))}, "tokens must be long, not torch.float32"),
        ({"tokens": torch.full((2, 3), MASK, dtype=torch.int32)}, "tokens must be long, not torch.int32"),
        ({"tokens": torch.tensor([[0, 1, 2], [0, 7, 1]])}, r"tokens\[1, 1\] is 7, outside the vocabulary of 6"),
        ({"tokens": torch.tensor([[0, 1, 2], [0, 1, -1]])}, r"tokens\[1, 2\] is -1, outside the vocabulary of 6"),
        ({"keep": torch.zeros(2, 4, dtype=torch.long)}, r"keep must have shape \(2, 3\)"),
        ({"keep": torch.tensor([[0, 1, 9], [0, 1, 1]])}, r"keep\[0, 2\] is 9, outside the vocabulary of 6"),
        ({"keep": torch.zeros(2, 3)}, "keep must be long, not torch.float32"),
        ({"absent": torch.zeros(2, 2, dtype=torch.bool)}, r"absent must have shape \(2, 3\)"),
        ({"absent": torch.zeros(2, 3, dtype=torch.long)}, "absent must be bool, not torch.int64"),
        ({"temperature": 0.0}, "temperature must be above 0 and finite, not 0.0"),
        ({"temperature": -1.0}, "temperature must be above 0 and finite, not -1.0"),
        ({"temperature": float("nan")}, "temperature must be above 0 and finite, not nan"),
        ({"top_k": 0}, "top_k must be at least 1, not 0"),
        ({"latent_potentials": torch.zeros(2, 2, 3)}, "latent_potentials must"),
    ],
)
def test_arguments_that_do_not_fit_are_refused_by_name(changes: dict, message: str) -> None:
    arguments = {"logits": torch.zeros(2, 3, 6), "tokens": all_masked(2, 3), "mask_token_id": MASK, "top_k": 2}
    with pytest.raises(EvidenceError, match=message):
        Evidence.from_logits(**{**arguments, **changes})


@pytest.mark.parametrize("value", [-torch.inf, torch.inf, torch.nan])
@pytest.mark.parametrize("top_k", [None, 2])
def test_a_masked_position_whose_logits_say_nothing_is_named(value: float, top_k: int | None) -> None:
    logits = random_logits(2, 3, 6)
    logits[1, 2] = value
    with pytest.raises(EvidenceError, match="row 1, position 2"):
        Evidence.from_logits(logits, all_masked(2, 3), MASK, top_k=top_k)


def test_a_masked_position_with_logits_on_the_mask_token_only_is_named() -> None:
    logits = torch.zeros(1, 2, 3)
    logits[0, 1, :2] = -torch.inf
    with pytest.raises(EvidenceError, match="row 0, position 1"):
        Evidence.from_logits(logits, all_masked(1, 2, 2), mask_token_id=2)


def test_tokens_the_backbone_rules_out_weigh_nothing() -> None:
    logits = random_logits(1, 2, 6)
    logits[0, 0, 3] = -torch.inf
    evidence = Evidence.from_logits(logits, all_masked(1, 2), MASK)
    assert evidence.weights[0, 0, 3] == 0
    assert evidence.log_weight(torch.tensor([[3, 0]])) == -torch.inf
    assert random_hmm(2, 6, 2).log_joint(torch.tensor([[3, 0]]), evidence) == -torch.inf
