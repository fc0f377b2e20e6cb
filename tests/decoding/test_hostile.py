"""Circuits that rule out what the backbone wants, padding, and other cases in which a mask might stay."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from codd_lightning.backbones import exact_backbone
from codd_lightning.circuits import HMM
from codd_lightning.decoding import COMMIT, PROPOSALS, DecodingConfig, generate, infill
from codd_lightning.errors import UserError
from codd_lightning.tasks import ListTask

EOS, MASK, VOCABULARY = 2, 3, 4
COUPLED = [name for name, proposal in PROPOSALS.items() if proposal.coupled]


def one_state(*emission: float, block_length: int = 3) -> HMM:
    return HMM.from_probabilities(torch.ones(1), torch.ones(1, 1), torch.tensor([emission]), block_length)


def halves() -> HMM:
    """Either all 0 or all 1."""
    emission = torch.tensor([[1.0, 0, 0, 0], [0, 1.0, 0, 0]])
    return HMM.from_probabilities(torch.tensor([0.5, 0.5]), torch.eye(2), emission, 3)


@pytest.mark.parametrize("rule", [None, *COMMIT])
@pytest.mark.parametrize("steps", [1, 2, 4])
@pytest.mark.parametrize("proposal", COUPLED)
def test_no_mask_stays_where_the_circuit_wants_an_eos_that_is_not_due(
    proposal: str, steps: int, rule: str | None, fixed_logits: Callable[..., Any]
) -> None:
    logits = torch.tensor([[9.0, 0, -9, 0]] * 3 + [[1.0, 0, 0.9, 0]] * 3)
    backbone = fixed_logits(logits, MASK, [EOS])
    options: dict[str, Any] = {} if rule is None else {"commit": rule, "commit_bound": 0.5}
    config = DecodingConfig(
        paradigm="full", proposal=proposal, steps=steps, max_new_tokens=6, block_length=3, eos="last", **options
    )
    for gamma in (1.0, 0.0):
        written = generate(backbone, [[1], [0, 1]], config.replace(gamma=gamma), circuit=one_state(0.1, 0.1, 0.7, 0.1))
        for sequence, ended in zip(written.sequences, written.ended, strict=True):
            assert MASK not in sequence
            assert ended == (sequence[-1] == EOS)


@pytest.mark.parametrize("eos", ["any", "last"])
@pytest.mark.parametrize("tau", [0.0, 1.0])
@pytest.mark.parametrize("proposal", COUPLED)
def test_where_a_circuit_with_zeros_rules_everything_out_the_backbone_decides_alone_and_says_so(
    proposal: str, tau: float, eos: str, fixed_logits: Callable[..., Any]
) -> None:
    backbone = fixed_logits(torch.tensor([[9.0, 0, 0, 0], [0, 9.0, 0, 0], [0, 1.0, 0, 0]]), MASK, [EOS])
    config = DecodingConfig(
        proposal=proposal, steps=2, max_new_tokens=3, block_length=3, gamma=0.5, tau=tau, eos=eos,
        stop_at_eos=eos == "last", trace=True,
    )  # fmt: skip
    with pytest.warns(UserWarning, match="backbone decides alone"):
        written = generate(backbone, [[1]], config, circuit=halves())
    assert written.sequences == [[1, 0, 1, 1]]
    assert written.trace is not None
    assert not written.trace[-1].coupled.any()
    assert all(bool(step.confidence.isfinite().all()) for step in written.trace)


def test_candidates_that_a_circuit_rules_out_are_no_reason_to_stop(fixed_logits: Callable[..., Any]) -> None:
    backbone = fixed_logits(torch.tensor([[1.0, 0, 5.0, 0]] * 3), MASK)
    config = DecodingConfig(steps=3, max_new_tokens=3, block_length=3, evidence_top_k=1)
    with pytest.warns(UserWarning, match="backbone decides alone"):
        assert generate(backbone, [[1]], config, circuit=halves()).sequences == [[1, 2, 2, 2]]


def test_all_tokens_suppressed_is_named(fixed_logits: Callable[..., Any]) -> None:
    config = DecodingConfig(steps=1, max_new_tokens=3, block_length=3, suppress_tokens=(0, 1, 2))
    with pytest.raises(UserError, match="suppress_tokens holds every token"):
        generate(fixed_logits(torch.zeros(3, VOCABULARY), MASK), [[1]], config)


class Repeats(torch.nn.Module):
    """Says one thing at every position of every canvas."""

    def __init__(self, logits: list[float]) -> None:
        super().__init__()
        self.logits = torch.tensor(logits)
        self.vocab_size, self.mask_token_id, self.eos_token_ids, self.tokenizer = VOCABULARY, MASK, [], None

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        return self.logits.expand(*input_ids.shape, -1)


@pytest.mark.parametrize("paradigm", ["block", "full"])
@pytest.mark.parametrize("share", ["window", "response"])
@pytest.mark.parametrize("sampled", [False, True])
def test_padding_of_other_texts_changes_nothing(paradigm: str, share: str, sampled: bool) -> None:
    backbone, circuit = Repeats([1.0, 0.3, 0.5, 0.0]), one_state(0.05, 0.9, 0.05, 0.0, block_length=6)
    level = 1.0 if sampled else 0.0
    for proposal in PROPOSALS:
        config = DecodingConfig(
            paradigm=paradigm, proposal=proposal, steps=6, max_new_tokens=6, block_length=6, gamma=0.5,
            gamma_share=share, tau=level, temperature=level,
        )  # fmt: skip
        texts = [[MASK, MASK, 0], [0] * 17, [MASK] * 7]
        seeds = [torch.Generator().manual_seed(i) for i in range(3)]
        together = infill(backbone, texts, config, circuit, seeds)
        for i, text in enumerate(texts):
            alone = infill(backbone, [text], config, circuit, [torch.Generator().manual_seed(i)])
            assert (alone.sequences[0], alone.nfe[0]) == (together.sequences[i], together.nfe[i])


def test_an_exact_backbone_knows_padding_on_either_side() -> None:
    task = ListTask("permutation", 4)
    backbone = exact_backbone(task)
    ids = backbone.tokenizer("permutation 1 : a b c d =")["input_ids"]
    mask = backbone.mask_token_id
    config = DecodingConfig(steps=8, max_new_tokens=8, block_length=8)
    filled = infill(backbone, [ids + [mask] * 4, ids + [mask] * 8], config)
    assert filled.texts is not None
    assert all(tuple(text.split("=")[1].split()) in task.answers("permutation 1 : a b c d =") for text in filled.texts)
