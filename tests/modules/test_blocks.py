"""Conditional log-likelihoods against sums over every completion."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from codd_lightning.backbones import as_backbone
from codd_lightning.circuits import HMM
from codd_lightning.data import Blocks, Encoded, collate
from codd_lightning.diffusion import Noised
from codd_lightning.modules import conditional_log_likelihood, scored_blocks

VOCABULARY, BLOCK, MASK, EOS = 4, 3, 9, 0
MASKS = [list(masked) for masked in itertools.product([False, True], repeat=BLOCK)]


def hmm_of(seed: int) -> HMM:
    hmm = HMM(2, VOCABULARY, BLOCK)
    hmm.reset_parameters(torch.Generator().manual_seed(seed))
    return hmm.requires_grad_(False)


def joint_table(hmm: HMM, logits: Tensor, tokens: list[int], masked: list[bool]) -> Tensor:
    """`p_ω(x) Π w_i(x_i)` for every x, `(V, V, V)`: known tokens weigh 1, the others what the backbone says."""
    initial, transition, emission = (p.double() for p in hmm.probabilities())
    weights = torch.zeros(BLOCK, VOCABULARY, dtype=torch.float64)
    for i in range(BLOCK):
        weights[i] = (
            logits[i].double().softmax(-1) if masked[i] else weights[i].index_fill(0, torch.tensor(tokens[i]), 1.0)
        )
    table = torch.zeros([VOCABULARY] * BLOCK, dtype=torch.float64)
    for a, b, c in itertools.product(range(2), repeat=BLOCK):
        weight = initial[a] * transition[a, b] * transition[b, c]
        table += weight * torch.einsum("x,y,z->xyz", emission[a], emission[b], emission[c])
    return table * torch.einsum("x,y,z->xyz", *weights)


class Says(torch.nn.Module):
    """A backbone that says `(B, T, V)` logits."""

    mask_token_id, vocab_size, tokenizer = MASK, VOCABULARY, None
    eos_token_ids = (EOS,)

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = logits

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        return self.logits


def noise(clean: Tensor, masked: Tensor, scored: Tensor | None = None) -> Noised:
    ones = torch.ones(len(clean))
    return Noised(clean.masked_fill(masked, MASK), masked, masked if scored is None else scored, ones.long(), ones)


def blocks_of(logits: Tensor, tokens: list[int], masked: list[bool]) -> Blocks:
    batch = collate([Encoded(0, [], tokens)], 0)
    everything = torch.ones(1, BLOCK, dtype=torch.bool)
    noised = noise(batch.input_ids, torch.tensor([masked]), everything)
    return scored_blocks(as_backbone(Says(logits[None])), batch, noised, BLOCK, None)


@given(
    seed=st.integers(0, 1000),
    tokens=st.lists(st.integers(0, VOCABULARY - 1), min_size=BLOCK, max_size=BLOCK),
    masked=st.sampled_from(MASKS),
    scored=st.sampled_from(MASKS),
)
def test_conditional_log_likelihood_is_the_share_of_the_completions_that_agree(
    seed: int, tokens: list[int], masked: list[bool], scored: list[bool]
) -> None:
    hmm = hmm_of(seed)
    logits = torch.randn(BLOCK, VOCABULARY, generator=torch.Generator().manual_seed(seed))
    table = joint_table(hmm, logits, tokens, masked)
    blocks = blocks_of(logits, tokens, masked)
    all_of_it = table[tuple(tokens)] / table.sum()
    torch.testing.assert_close(
        float(conditional_log_likelihood(hmm, blocks)), float(all_of_it.log()), rtol=1e-4, atol=1e-5
    )
    agree = table[tuple([token] if here else slice(None) for token, here in zip(tokens, scored, strict=True))]
    some_of_it = conditional_log_likelihood(hmm, blocks, torch.tensor([scored]))
    torch.testing.assert_close(float(some_of_it), float((agree.sum() / table.sum()).log()), rtol=1e-4, atol=1e-5)


@given(seed=st.integers(0, 1000), masked=st.sampled_from(MASKS))
def test_a_neutral_circuit_adds_nothing_to_the_backbone(seed: int, masked: list[bool]) -> None:
    hmm = hmm_of(seed)
    hmm.emission_logits.zero_()
    logits = torch.randn(BLOCK, VOCABULARY, generator=torch.Generator().manual_seed(seed))
    found = float(conditional_log_likelihood(hmm, blocks_of(logits, [1, 2, 3], masked)))
    expected = sum((float(logits[i].log_softmax(-1)[i + 1]) for i in range(BLOCK) if masked[i]), start=0.0)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_the_true_tokens_are_kept_by_truncated_evidence() -> None:
    """Else Z would lack their weight and the likelihood could pass 1."""
    logits = torch.tensor([5.0, 4.0, 0.0, -5.0]).expand(1, 2 * BLOCK, VOCABULARY)
    batch = collate([Encoded(0, [], [3, 3, 3, 3, 3, 3])], 0)
    noised = noise(batch.input_ids, torch.ones(1, 2 * BLOCK, dtype=torch.bool))
    blocks = scored_blocks(as_backbone(Says(logits)), batch, noised, BLOCK, top_k=1)
    expected = logits[0, 0].log_softmax(-1)[3] * BLOCK
    torch.testing.assert_close(blocks.evidence.log_weight(blocks.tokens), expected.expand(2))
    for seed in range(20):
        assert bool((conditional_log_likelihood(hmm_of(seed), blocks) <= 1e-6).all())


def test_blocks_are_those_with_a_scored_token_and_carry_the_evidence_of_their_columns() -> None:
    rows = [Encoded(0, [1], [1, 2, 3, 1, 2, 3]), Encoded(1, [1, 2], [3, 2, 1])]
    batch = collate(rows, 0)
    masked = batch.response_mask.clone()
    masked[0, 2] = False
    scored = masked.clone()
    scored[0, :5] = False
    logits = torch.randn(2, 8, VOCABULARY, generator=torch.Generator().manual_seed(0))
    blocks = scored_blocks(as_backbone(Says(logits)), batch, noise(batch.input_ids, masked, scored), BLOCK, None)
    assert blocks.row.tolist() == [0, 1]
    assert blocks.tokens.tolist() == [[1, 2, 3], [3, 2, 1]]
    assert blocks.masked.tolist() == [[True] * 3, [True] * 3]
    torch.testing.assert_close(blocks.evidence.weights, torch.stack([logits[0, 5:], logits[1, 2:5]]).softmax(-1))


def test_known_tokens_of_a_block_are_evidence_too() -> None:
    batch = collate([Encoded(0, [], [1, 2, 3])], 0)
    masked = torch.tensor([[True, False, True]])
    blocks = scored_blocks(
        as_backbone(Says(torch.zeros(1, 3, VOCABULARY))), batch, noise(batch.input_ids, masked), BLOCK, None
    )
    assert blocks.evidence.observed.tolist() == [[False, True, False]]
    assert int(blocks.evidence.tokens[0, 1]) == 2


@pytest.mark.parametrize(
    ("tokens", "counted"),
    [
        ([1, 2, 3], [True, True, True]),
        ([1, EOS, EOS], [True, True, False]),
        ([EOS, EOS, EOS], [True, False, False]),
        ([1, EOS, 2], [True, True, False]),
    ],
)
def test_counted_tokens_of_a_block_are_the_masked_ones_up_to_its_first_eos(
    tokens: list[int], counted: list[bool]
) -> None:
    batch = collate([Encoded(0, [], tokens)], 0)
    for masked in MASKS[1:]:
        given = noise(batch.input_ids, torch.tensor([masked]))
        blocks = scored_blocks(as_backbone(Says(torch.zeros(1, 3, VOCABULARY))), batch, given, BLOCK, None)
        expected = [here and count for here, count in zip(masked, counted, strict=True)]
        assert blocks.counted.tolist() == [expected]
