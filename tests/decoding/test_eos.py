"""When a row has finished, and when an EOS may be committed."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from codd_lightning.backbones.tokenizers import train_tokenizer
from codd_lightning.circuits import HMM
from codd_lightning.decoding import PROPOSALS, REMASKING, DecodingConfig, generate
from codd_lightning.errors import UserError

EOS, MASK, VOCABULARY = 0, 9, 6  # the mask token lies outside the vocabulary: whatever equals it is masked
SURE = 8.0


def says(*tokens: int, surest: list[int] | None = None) -> Tensor:
    """Logits that say these tokens, surer of them in the given order of positions (left to right if None)."""
    order = surest or list(range(len(tokens)))
    logits = torch.zeros(len(tokens), VOCABULARY)
    for rank, position in enumerate(order):
        logits[position, tokens[position]] = SURE - rank
    return logits


SEARCHING = ("map", "best")  # the most probable is searched for, not drawn


def circuit_for(proposal: str, neutral_hmm: Callable[..., HMM]) -> HMM | None:
    return neutral_hmm(2, VOCABULARY, 8) if PROPOSALS[proposal].coupled else None


def test_texts_and_sequences_end_at_the_first_eos(fixed_logits: Callable[..., Any]) -> None:
    tokenizer = train_tokenizer(["a b c d"], "words", 16)
    eos, (a, b, c) = tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids(["a", "b", "c"])
    logits = torch.zeros(6, len(tokenizer))
    for position, token in enumerate([a, b, eos, c, eos, c]):
        logits[position, token] = SURE
    backbone = fixed_logits(logits, tokenizer.mask_token_id, [eos], tokenizer)
    written = generate(backbone, ["d"], DecodingConfig(steps=1, max_new_tokens=6, block_length=6))
    assert written.sequences == [[*tokenizer("d")["input_ids"], a, b, eos]]
    assert written.texts == ["a b"]
    assert written.ended == [True]
    assert written.response_tokens == [3]


def test_a_response_without_eos_has_not_ended(fixed_logits: Callable[..., Any]) -> None:
    config = DecodingConfig(steps=2, max_new_tokens=3, block_length=3)
    written = generate(fixed_logits(says(1, 2, 3), MASK, [EOS]), [[4]], config)
    assert written.sequences == [[4, 1, 2, 3]]
    assert (written.ended, written.response_tokens, written.texts) == ([False], [3], None)


@pytest.mark.parametrize("proposal", PROPOSALS)
def test_a_finished_row_costs_nothing_more_and_the_others_go_on(
    proposal: str, known_answers: Callable[..., Any], neutral_hmm: Callable[..., HMM]
) -> None:
    answers = {(1,): [2, 3, EOS, 4, 4, 4, 4, 4], (2,): [1, 2, 3, 4, 1, 2, 3, 4], (3,): [1, EOS, 5, 5, 5, 5, 5, 5]}
    backbone = known_answers(answers, VOCABULARY, MASK, [EOS])
    config = DecodingConfig(
        proposal=proposal, remasking="left_to_right", steps=8, max_new_tokens=8, block_length=4, trace=True
    )
    written = generate(backbone, [[1], [2], [3]], config, circuit=circuit_for(proposal, neutral_hmm))
    assert written.sequences == [[1, 2, 3, EOS], [2, *answers[(2,)]], [3, 1, EOS]]
    assert written.nfe == [3, 8, 2]
    assert written.trace is not None
    assert [step.rows.tolist() for step in written.trace] == [[0, 1, 2]] * 2 + [[0, 1]] + [[1]] * 5


def test_finished_rows_are_not_shown_to_the_backbone(fixed_logits: Callable[..., Any]) -> None:
    backbone = fixed_logits(says(1, EOS, 2, 3), MASK, [EOS])
    config = DecodingConfig(remasking="left_to_right", steps=4, max_new_tokens=4, block_length=2)
    assert generate(backbone, [[1], [2]], config).nfe == [2, 2]
    assert backbone.rows_seen == [2, 2]


def test_an_eos_right_of_a_mask_does_not_finish_a_row(fixed_logits: Callable[..., Any]) -> None:
    backbone = fixed_logits(says(1, 2, EOS, EOS, surest=[3, 2, 1, 0]), MASK, [EOS])
    written = generate(backbone, [[1]], DecodingConfig(steps=4, max_new_tokens=4, block_length=4))
    assert written.sequences == [[1, 1, 2, EOS]]
    assert written.nfe == [4]


@pytest.mark.parametrize("eos_rule", ["any", "last"])
def test_an_eos_in_the_prompt_does_not_end_the_row(eos_rule: str, fixed_logits: Callable[..., Any]) -> None:
    config = DecodingConfig(steps=2, max_new_tokens=3, block_length=3, eos=eos_rule)
    written = generate(fixed_logits(says(1, 2, 3), MASK, [EOS]), [[EOS, 4, EOS], [EOS]], config)
    assert written.sequences == [[EOS, 4, EOS, 1, 2, 3], [EOS, 1, 2, 3]]
    assert written.ended == [False, False]


def test_any_of_several_eos_tokens_ends_a_response(fixed_logits: Callable[..., Any]) -> None:
    config = DecodingConfig(steps=1, max_new_tokens=4, block_length=4)
    written = generate(fixed_logits(says(1, 5, 2, EOS), MASK, [EOS, 5]), [[1]], config)
    assert written.sequences == [[1, 1, 5]]


@pytest.mark.parametrize("proposal", PROPOSALS)
def test_without_stopping_the_whole_response_is_written(
    proposal: str, fixed_logits: Callable[..., Any], neutral_hmm: Callable[..., HMM]
) -> None:
    config = DecodingConfig(
        proposal=proposal, remasking="left_to_right", steps=4, max_new_tokens=4, block_length=4, stop_at_eos=False
    )
    backbone = fixed_logits(says(1, EOS, 2, EOS), MASK, [EOS])
    written = generate(backbone, [[3]], config, circuit=circuit_for(proposal, neutral_hmm))
    assert written.sequences == [[3, 1, EOS, 2, EOS]]
    assert (written.nfe, written.response_tokens) == ([4], [4])


def test_the_rule_that_ends_a_response_at_its_eos_cannot_go_on_after_it() -> None:
    with pytest.raises(UserError, match=r"decoding\.eos=last .* decoding\.stop_at_eos"):
        DecodingConfig(eos="last", stop_at_eos=False)


@pytest.mark.parametrize("steps", [1, 2, 4])
@pytest.mark.parametrize("proposal", PROPOSALS)
def test_without_stopping_no_position_stays_masked(
    proposal: str, steps: int, fixed_logits: Callable[..., Any], neutral_hmm: Callable[..., HMM]
) -> None:
    config = DecodingConfig(proposal=proposal, steps=steps, max_new_tokens=4, block_length=4, stop_at_eos=False)
    backbone = fixed_logits(says(1, EOS, 2, EOS), MASK, [EOS])
    written = generate(backbone, [[3]], config, circuit=circuit_for(proposal, neutral_hmm))
    assert MASK not in written.sequences[0]


@pytest.mark.parametrize("level", [0.0, 1.0], ids=["greedy", "sampled"])
@pytest.mark.parametrize("remasking", REMASKING)
@pytest.mark.parametrize("proposal", PROPOSALS)
def test_eos_last_never_commits_an_eos_right_of_a_mask(
    proposal: str,
    remasking: str,
    level: float,
    fixed_logits: Callable[..., Any],
    random_hmm: Callable[..., HMM],
) -> None:
    config = DecodingConfig(
        proposal=proposal,
        remasking=remasking,
        eos="last",
        tau=level,
        temperature=level,
        steps=5,
        max_new_tokens=12,
        block_length=6,
        trace=True,
    )
    committed = 0
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        logits = torch.randn(12, VOCABULARY, generator=generator)
        logits[:, EOS] += torch.linspace(-1.0, 3.0, 12)  # the tail is all EOS, and surer than the rest
        backbone = fixed_logits(logits, MASK, [EOS])
        hmm = random_hmm(3, VOCABULARY, 6, seed) if PROPOSALS[proposal].coupled else None
        written = generate(backbone, [[1]] * 20, config, circuit=hmm, generator=generator)
        assert written.trace is not None
        for step in written.trace:
            for canvas, columns, chosen in zip(step.canvas, step.columns, step.committed, strict=True):
                for column in columns[chosen].tolist():
                    if int(canvas[column]) == EOS:
                        committed += 1
                        assert MASK not in canvas[:column].tolist()
        assert all(MASK not in sequence for sequence in written.sequences)
    assert committed


@pytest.mark.parametrize("proposal", PROPOSALS)
def test_eos_any_commits_a_sure_eos_first(
    proposal: str, fixed_logits: Callable[..., Any], neutral_hmm: Callable[..., HMM]
) -> None:
    config = DecodingConfig(proposal=proposal, steps=4, max_new_tokens=4, block_length=4, trace=True)
    backbone = fixed_logits(says(1, 2, EOS, EOS, surest=[2, 3, 0, 1]), MASK, [EOS])
    written = generate(backbone, [[1]], config, circuit=circuit_for(proposal, neutral_hmm))
    assert written.trace is not None
    assert written.trace[0].committed.tolist() == [[False, False, True, False]]


@pytest.mark.parametrize("level", [0.0, 1e-3], ids=["greedy", "sampled"])
@pytest.mark.parametrize("proposal", PROPOSALS)
def test_eos_last_commits_an_eos_that_is_due_outside_the_quota(
    proposal: str, level: float, fixed_logits: Callable[..., Any], neutral_hmm: Callable[..., HMM]
) -> None:
    options: dict[str, Any] = {
        "proposal": proposal,
        "remasking": "left_to_right",
        "steps": 2,
        "max_new_tokens": 4,
        "block_length": 4,
        "tau": level,
        "temperature": level,
    }
    logits = says(1, 2, EOS, EOS)
    circuit = circuit_for(proposal, neutral_hmm)
    last = generate(fixed_logits(logits, MASK, [EOS]), [[1]], DecodingConfig(eos="last", **options), circuit=circuit)
    any_ = generate(fixed_logits(logits, MASK, [EOS]), [[1]], DecodingConfig(eos="any", **options), circuit=circuit)
    assert last.sequences == any_.sequences == [[1, 1, 2, EOS]]
    drawn = (
        level > 0.0 and proposal not in SEARCHING
    ) or proposal == "latent"  # a drawn EOS that the quota leaves is drawn again, so it waits
    assert (last.nfe, any_.nfe) == ([2 if drawn else 1], [2])


@pytest.mark.parametrize("proposal", [name for name in PROPOSALS if name not in SEARCHING])
def test_a_sampled_eos_ends_as_many_responses_as_its_probability_says(
    proposal: str, fixed_logits: Callable[..., Any], neutral_hmm: Callable[..., HMM]
) -> None:
    draws, share = 4000, 0.6
    logits = torch.full((2, VOCABULARY), -torch.inf)
    logits[:, EOS], logits[:, 1] = math.log(share), math.log(1 - share)
    config = DecodingConfig(
        proposal=proposal, remasking="left_to_right", eos="last", steps=2, max_new_tokens=2, block_length=2,
        tau=1.0, temperature=1.0,
    )  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    written = generate(
        fixed_logits(logits, MASK, [EOS]), [[1]] * draws, config, circuit_for(proposal, neutral_hmm), generator
    )
    at_once = sum(sequence == [1, EOS] for sequence in written.sequences) / draws
    assert abs(at_once - share) < 5 * math.sqrt(share * (1 - share) / draws)


@pytest.mark.parametrize("remasking", ["low_confidence", "margin", "entropy"])
@pytest.mark.parametrize("proposal", PROPOSALS)
def test_eos_last_spends_the_quota_on_tokens_that_are_no_eos(
    proposal: str, remasking: str, fixed_logits: Callable[..., Any], neutral_hmm: Callable[..., HMM]
) -> None:
    config = DecodingConfig(
        proposal=proposal, remasking=remasking, eos="last", steps=2, max_new_tokens=4, block_length=4, trace=True
    )
    backbone = fixed_logits(says(1, 2, 3, EOS, surest=[3, 2, 1, 0]), MASK, [EOS])
    written = generate(backbone, [[1]], config, circuit=circuit_for(proposal, neutral_hmm))
    assert written.trace is not None
    assert [step.committed[0].tolist() for step in written.trace] == [
        [False, True, True, False],
        [True, False, False, True],
    ]


@pytest.mark.parametrize("proposal", PROPOSALS)
def test_eos_last_may_end_a_response_at_once(
    proposal: str, fixed_logits: Callable[..., Any], neutral_hmm: Callable[..., HMM]
) -> None:
    config = DecodingConfig(proposal=proposal, eos="last", steps=4, max_new_tokens=4, block_length=4)
    backbone = fixed_logits(says(EOS, EOS, EOS, EOS), MASK, [EOS])
    written = generate(backbone, [[1]], config, circuit=circuit_for(proposal, neutral_hmm))
    assert (written.sequences, written.nfe, written.ended) == ([[1, EOS]], [1], [True])
