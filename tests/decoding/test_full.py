"""Full diffusion: windows that cover a step's targets, conditioned on everything committed."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from codd_lightning.backbones import Backbone, load_backbone
from codd_lightning.circuits import HMM, Evidence
from codd_lightning.decoding import PROPOSALS, REMASKING, DecodingConfig, generate
from codd_lightning.errors import UserError

FIXTURES = Path(__file__).parents[1] / "fixtures"
MASK, VOCABULARY = 9, 6
COUPLED = [name for name, proposal in PROPOSALS.items() if proposal.coupled]


@functools.cache
def tiny() -> Backbone:
    return load_backbone(FIXTURES / "a2d-qwen3-tiny", dtype="float64", attention="eager")


def some_logits(length: int) -> torch.Tensor:
    return 2.0 * torch.randn(length, VOCABULARY, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("proposal", PROPOSALS)
@pytest.mark.parametrize("remasking", REMASKING)
def test_one_window_over_the_whole_response_is_one_block(
    proposal: str, remasking: str, random_hmm: Callable[..., HMM]
) -> None:
    hmm = random_hmm(8, 200, 12)
    config = DecodingConfig(
        proposal=proposal, remasking=remasking, steps=1, max_new_tokens=12, block_length=12, tau=1.0, temperature=1.0
    )
    texts = [
        generate(
            tiny(), [[5, 6], [7]], config.replace(paradigm=paradigm), hmm, torch.Generator().manual_seed(3)
        ).sequences
        for paradigm in ("block", "full")
    ]
    if remasking == "random":  # targets are drawn, so the draws that follow differ
        assert [len(row) for row in texts[0]] == [len(row) for row in texts[1]]
    else:
        assert texts[0] == texts[1]


@pytest.mark.parametrize("proposal", COUPLED)
def test_all_windows_of_all_rows_are_one_question_conditioned_on_everything_committed(
    proposal: str,
    fixed_logits: Callable[..., Any],
    random_hmm: Callable[..., HMM],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hmm = random_hmm(3, VOCABULARY, 4)
    asked: list[Evidence] = []
    posterior = hmm.posterior
    monkeypatch.setattr(hmm, "posterior", lambda evidence: (asked.append(evidence), posterior(evidence))[1])
    config = DecodingConfig(
        paradigm="full", proposal=proposal, steps=3, max_new_tokens=10, block_length=4, stop_at_eos=False, trace=True
    )
    written = generate(fixed_logits(some_logits(10), MASK), [[1], [2, 3]], config, circuit=hmm)
    assert written.trace is not None
    assert len(asked) == 3
    assert written.nfe == [3, 3]
    canvas = torch.full((2, 12), MASK)  # prompts padded to two columns
    for evidence, step in zip(asked, written.trace, strict=True):
        assert int(step.columns.min()) >= 2, "no window reaches into a prompt"
        for window, row in enumerate(step.rows.tolist()):
            columns = step.columns[window].tolist()
            gone = [False] * 4 if evidence.absent is None else evidence.absent[window].tolist()
            assert columns == [min(columns[0] + i, 11) for i in range(4)]
            assert gone == [columns[0] + i > 11 for i in range(4)]
            for i, column in enumerate(columns):
                if not gone[i]:
                    assert bool(evidence.observed[window, i]) == (int(canvas[row, column]) != MASK)
        for window, row in enumerate(step.rows.tolist()):
            where = step.columns[window][step.committed[window]]
            assert (canvas[row, where] == MASK).all()
            canvas[row, where] = step.canvas[window, where]
    assert (canvas[:, 2:] != MASK).all()


def test_each_step_commits_its_quota(fixed_logits: Callable[..., Any], random_hmm: Callable[..., HMM]) -> None:
    config = DecodingConfig(paradigm="full", steps=4, max_new_tokens=10, block_length=4, trace=True)
    written = generate(fixed_logits(some_logits(10), MASK), [[1]], config, circuit=random_hmm(3, VOCABULARY, 4))
    assert written.trace is not None
    assert [int(step.committed.sum()) for step in written.trace] == [3, 3, 2, 2]


@pytest.mark.parametrize(
    ("options", "acts"),
    [
        ({"gamma": 0.5}, [False, False, True, True]),
        ({"gamma": 0.5, "strict_gamma": True}, [False, False, False, True]),
        ({"gamma": 0.5, "reverse_gamma": True}, [True, True, True, False]),
        ({"gamma": 0.5, "reverse_gamma": True, "strict_gamma": True}, [True, True, False, False]),
        ({"gamma": 1.0, "strict_gamma": True}, [False, True, True, True]),
        ({"gamma": 0.25, "gamma_share": "response"}, [False, False, False, True]),
    ],
)
@pytest.mark.parametrize("paradigm", ["block", "full"])
def test_gamma_says_when_the_circuit_acts(
    paradigm: str,
    options: dict[str, Any],
    acts: list[bool],
    fixed_logits: Callable[..., Any],
    random_hmm: Callable[..., HMM],
) -> None:
    config = DecodingConfig(paradigm=paradigm, steps=4, max_new_tokens=8, block_length=8, trace=True, **options)
    written = generate(fixed_logits(some_logits(8), MASK), [[1]], config, circuit=random_hmm(3, VOCABULARY, 8))
    assert written.trace is not None
    if paradigm == "block" or "gamma_share" in options:
        assert [bool(step.coupled.all()) for step in written.trace] == acts


def test_the_share_of_the_response_counts_all_blocks(
    fixed_logits: Callable[..., Any], random_hmm: Callable[..., HMM]
) -> None:
    config = DecodingConfig(gamma=0.5, gamma_share="response", steps=4, max_new_tokens=8, block_length=4, trace=True)
    written = generate(fixed_logits(some_logits(8), MASK), [[1]], config, circuit=random_hmm(3, VOCABULARY, 4))
    assert written.trace is not None
    assert [bool(step.coupled.all()) for step in written.trace] == [False, False, True, True]


def test_a_suppressed_token_outside_the_vocabulary_is_named(fixed_logits: Callable[..., Any]) -> None:
    config = DecodingConfig(steps=1, max_new_tokens=4, block_length=4, suppress_tokens=(VOCABULARY,))
    with pytest.raises(UserError, match="suppress_tokens holds 6"):
        generate(fixed_logits(some_logits(4), MASK), [[1]], config)


@pytest.mark.parametrize("paradigm", ["block", "full"])
def test_suppressed_tokens_are_never_proposed(paradigm: str, random_hmm: Callable[..., HMM]) -> None:
    config = DecodingConfig(paradigm=paradigm, steps=6, max_new_tokens=20, block_length=8, tau=1.0, temperature=1.0)
    for circuit in (None, random_hmm(8, 200, 8)):
        free = generate(tiny(), [[5]], config, circuit, torch.Generator().manual_seed(0)).sequences[0][1:]
        kept_out = tuple(set(free))
        held = generate(
            tiny(), [[5]], config.replace(suppress_tokens=kept_out), circuit, torch.Generator().manual_seed(0)
        ).sequences[0][1:]
        assert not set(held) & set(kept_out)
