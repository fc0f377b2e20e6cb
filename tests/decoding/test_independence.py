"""Positions that do not influence each other, where the truth is known."""

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from codd_lightning.decoding import DecodingConfig, generate
from codd_lightning.decoding.independence import independent_positions
from codd_lightning.errors import UserError

MASK, VOCABULARY = 4, 5


class Joint(nn.Module):
    """The true conditionals of a distribution over responses, given the tokens that are known."""

    def __init__(self, log_mass: Tensor, length: int) -> None:
        super().__init__()
        self.mask_token_id, self.vocab_size, self.eos_token_ids, self.tokenizer = MASK, VOCABULARY, [], None
        self.log_mass, self.length = log_mass, length
        self.texts = torch.tensor(list(itertools.product(range(MASK), repeat=length)))
        self.passes = 0

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        self.passes += 1
        logits = torch.zeros(*input_ids.shape, VOCABULARY)
        for row, canvas in enumerate(input_ids[:, -self.length :]):
            fits = ((self.texts == canvas) | (canvas == MASK)).all(-1)
            for position, token in itertools.product(range(self.length), range(VOCABULARY)):
                here = fits & (self.texts[:, position] == token)
                logits[row, -self.length + position, token] = self.log_mass[here].logsumexp(0) if here.any() else -100.0
        return logits


def pairs(strength: float) -> Joint:
    """Four positions: 0 and 2 depend on each other, 1 and 3 too, the pairs not; 0 is the surest."""
    texts = torch.tensor(list(itertools.product(range(MASK), repeat=4)))
    alone = (texts == 0).float() @ torch.tensor([1.0, 0.8, 0.4, 0.2])
    alike = (texts[:, 0] == texts[:, 2]).float() + (texts[:, 1] == texts[:, 3]).float()
    return Joint(alone + strength * alike, 4)


def kept_of(backbone: Joint, bound: float) -> tuple[list[bool], int]:
    canvas = torch.full((1, 4), MASK)
    logits = backbone(canvas)[..., :MASK]
    kept, passes = independent_positions(
        logits, canvas == MASK, canvas, lambda rows, revealed: backbone(revealed)[..., :MASK], bound
    )
    return kept[0].tolist(), int(passes)


def test_of_dependent_positions_the_surer_one_stays() -> None:
    assert kept_of(pairs(strength=3.0), 0.01) == ([True, True, False, False], 2)


def test_independent_positions_all_stay_after_a_pass_for_each_digit() -> None:
    assert kept_of(pairs(strength=0.0), 1e-6) == ([True] * 4, 2)


def test_a_bound_above_every_influence_drops_nothing() -> None:
    assert kept_of(pairs(strength=3.0), 100.0)[0] == [True] * 4


def test_influence_is_the_divergence_from_what_was_said_before() -> None:
    backbone = pairs(strength=1.0)
    before = backbone(torch.full((1, 4), MASK))[0, 2].softmax(-1)
    after = backbone(torch.tensor([[0, 0, MASK, MASK]]))[0, 2].softmax(-1)
    influence = float((after * (after / before).log())[:MASK].sum())
    assert not kept_of(backbone, influence * 0.999)[0][2]
    assert kept_of(backbone, influence * 1.001)[0][2]


@pytest.mark.parametrize("batch", [1, 3])
def test_the_loop_commits_independent_positions_together_and_counts_every_pass(batch: int) -> None:
    backbone = pairs(strength=3.0)
    config = DecodingConfig(max_new_tokens=4, block_length=4, commit="independence", commit_bound=0.01, trace=True)
    written = generate(backbone, [[0]] * batch, config)
    assert written.trace is not None
    committed = [step.committed[0].tolist() for step in written.trace]
    assert committed == [[True, True, False, False], [False, False, True, True]]
    assert written.nfe == [1 + 2 + 1 + 1] * batch  # of two positions one digit differs
    assert backbone.passes == written.nfe[0]
    assert [step.number[0].item() for step in written.trace] == [1, 2]


@pytest.mark.parametrize("eos", ["any", "last"])
@pytest.mark.parametrize("proposal", ["factorized", "any_order", "map"])
def test_every_proposal_ends_with_nothing_masked(eos: str, proposal: str, random_hmm: Any, fixed_logits: Any) -> None:
    logits = torch.randn(7, VOCABULARY, generator=torch.Generator().manual_seed(0))
    logits[3:, 0] += 3.0  # EOS
    config = DecodingConfig(
        max_new_tokens=7, block_length=7, commit="independence", commit_bound=0.1, proposal=proposal, eos=eos
    )
    circuit = None if proposal == "factorized" else random_hmm(3, VOCABULARY, 7)
    written = generate(fixed_logits(logits, MASK, [0]), [[1], [2]], config, circuit)
    assert all(MASK not in sequence for sequence in written.sequences)
    assert all(1 <= nfe <= 7 * (1 + math.ceil(math.log2(7))) for nfe in written.nfe)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"paradigm": "full"}, "decoding.commit=independence is for decoding.paradigm=block"),
        (
            {"proposal": "factorized", "remasking": "left_to_right"},
            "decoding.remasking=left_to_right has no effect with decoding.commit=independence",
        ),
        ({"commit_reads": "circuit"}, "commit_reads=circuit has no effect with decoding.commit=independence"),
        ({"commit_bound": None}, "decoding.commit=independence needs a decoding.commit_bound"),
    ],
)
def test_what_has_no_effect_is_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        DecodingConfig(**{"commit": "independence", "commit_bound": 0.1, **options})
