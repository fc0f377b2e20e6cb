"""The denoising loop: what it counts, when the circuit acts, which layouts it takes and what it refuses."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from codd_lightning.backbones import Backbone, load_backbone
from codd_lightning.backbones.tokenizers import train_tokenizer
from codd_lightning.circuits import HMM
from codd_lightning.decoding import PROPOSALS, DecodingConfig, generate
from codd_lightning.errors import UserError

FIXTURES = Path(__file__).parents[1] / "fixtures"
MASK, VOCABULARY = 9, 6
COUPLED = [name for name, proposal in PROPOSALS.items() if proposal.coupled]


@functools.cache
def tiny() -> Backbone:
    return load_backbone(FIXTURES / "a2d-qwen3-tiny", attention="eager")


def some_logits(length: int, seed: int = 0) -> torch.Tensor:
    return 2.0 * torch.randn(length, VOCABULARY, generator=torch.Generator().manual_seed(seed))


def count_calls(hmm: HMM, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Notes the number of rows of every question that the circuit is asked."""
    asked: list[int] = []
    posterior = hmm.posterior

    def counted(evidence: Any) -> Any:
        asked.append(evidence.batch_size)
        return posterior(evidence)

    monkeypatch.setattr(hmm, "posterior", counted)
    return asked


@pytest.mark.parametrize(
    ("gamma", "acts"),
    [
        (0.0, [False, False, False, False]),
        (0.2, [False, False, False, False]),
        (0.25, [False, False, False, True]),
        (0.5, [False, False, True, True]),
        (0.99, [False, True, True, True]),
        (1.0, [True, True, True, True]),
    ],
)
@pytest.mark.parametrize("proposal", COUPLED)
def test_the_circuit_acts_where_the_masked_share_is_at_most_gamma(
    proposal: str,
    gamma: float,
    acts: list[bool],
    fixed_logits: Callable[..., Any],
    random_hmm: Callable[..., HMM],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hmm = random_hmm(3, VOCABULARY, 4)
    asked = count_calls(hmm, monkeypatch)
    config = DecodingConfig(proposal=proposal, gamma=gamma, steps=8, max_new_tokens=8, block_length=4, trace=True)
    written = generate(fixed_logits(some_logits(8), MASK), [[1], [2]], config, circuit=hmm)
    assert written.trace is not None
    assert [step.coupled.tolist() for step in written.trace] == [[on, on] for on in acts + acts]
    assert asked == [2] * sum(acts + acts)
    calls_of_a_step = 10 if proposal == "best" else 1  # max-product, a beam and eight samples
    assert written.circuit_calls == [2 * sum(acts) * calls_of_a_step] * 2


def test_below_gamma_a_circuit_changes_nothing(
    fixed_logits: Callable[..., Any], random_hmm: Callable[..., HMM]
) -> None:
    backbone, hmm = fixed_logits(some_logits(8), MASK), random_hmm(3, VOCABULARY, 8)
    config = DecodingConfig(steps=4, max_new_tokens=8, block_length=8)
    never = generate(backbone, [[1]], config.replace(gamma=0.0), circuit=hmm)
    always = generate(backbone, [[1]], config.replace(gamma=1.0), circuit=hmm)
    assert never.sequences == generate(backbone, [[1]], config).sequences
    assert never.sequences != always.sequences


def test_steps_without_the_circuit_draw_at_the_temperature_of_the_backbone(
    fixed_logits: Callable[..., Any], random_hmm: Callable[..., HMM]
) -> None:
    config = DecodingConfig(steps=4, max_new_tokens=8, block_length=8, gamma=0.0, temperature=1.0)
    seeds = [torch.Generator().manual_seed(3) for _ in range(2)]
    backbone = fixed_logits(some_logits(8), MASK)
    with_circuit = generate(backbone, [[1]], config, circuit=random_hmm(3, VOCABULARY, 8), generator=seeds[0])
    without = generate(backbone, [[1]], config, generator=seeds[1])
    assert with_circuit.sequences == without.sequences
    assert without.sequences != generate(backbone, [[1]], config.replace(temperature=0.0)).sequences


def test_any_order_asks_the_circuit_once_a_token_and_the_others_once_a_step_and_candidate(
    fixed_logits: Callable[..., Any], random_hmm: Callable[..., HMM]
) -> None:
    backbone, hmm = fixed_logits(some_logits(10), MASK), random_hmm(3, VOCABULARY, 4)
    layout: dict[str, Any] = {"steps": 5, "max_new_tokens": 10, "block_length": 4}
    calls = {
        proposal: generate(backbone, [[1]], DecodingConfig(proposal=proposal, **layout), circuit=hmm).circuit_calls
        for proposal in PROPOSALS
    }
    assert calls == {
        "factorized": [0],
        "latent": [5],
        "latent_reference": [5],
        "any_order": [10],
        "marginal": [5],
        "map": [5],
        "best": [50],
    }


def test_the_default_proposal_is_any_order_with_a_circuit_and_factorized_without(
    fixed_logits: Callable[..., Any], random_hmm: Callable[..., HMM]
) -> None:
    backbone, hmm = fixed_logits(some_logits(8), MASK), random_hmm(3, VOCABULARY, 8)
    config = DecodingConfig(steps=1, max_new_tokens=8, block_length=8)
    for circuit, proposal in ((hmm, "any_order"), (None, "factorized")):
        default = generate(backbone, [[1]], config, circuit=circuit).sequences
        assert default == generate(backbone, [[1]], config.replace(proposal=proposal), circuit=circuit).sequences
    assert generate(backbone, [[1]], config, circuit=hmm).sequences != generate(backbone, [[1]], config).sequences


@pytest.mark.parametrize(
    ("layout", "lengths", "committed"),
    [
        ({"max_new_tokens": 10, "block_length": 4, "steps": 5}, [4, 4, 4, 4, 2], [2, 2, 2, 2, 2]),
        ({"max_new_tokens": 8, "block_length": 4, "steps": 3}, [4, 4, 4], [2, 2, 4]),
        ({"max_new_tokens": 5, "block_length": 4, "steps": 2}, [4, 1], [4, 1]),
        ({"max_new_tokens": 3, "block_length": 4, "steps": 2}, [3, 3], [2, 1]),
        ({"max_new_tokens": 3, "block_length": 4, "steps": 9}, [3, 3, 3], [1, 1, 1]),
        ({"max_new_tokens": 5, "block_length": 5, "steps": 3}, [5, 5, 5], [2, 2, 1]),
    ],
    ids=["short-last-block", "uneven-steps", "last-block-of-one", "one-short-block", "more-steps-than-tokens", "odd"],
)
@pytest.mark.parametrize("proposal", PROPOSALS)
def test_blocks_and_steps_divide_the_response(
    proposal: str,
    layout: dict[str, Any],
    lengths: list[int],
    committed: list[int],
    fixed_logits: Callable[..., Any],
    random_hmm: Callable[..., HMM],
) -> None:
    length = layout["max_new_tokens"]
    config = DecodingConfig(proposal=proposal, trace=True, **layout)
    backbone = fixed_logits(some_logits(length), MASK)
    written = generate(backbone, [[1, 2], [3]], config, circuit=random_hmm(3, VOCABULARY, 5))
    assert written.trace is not None
    assert [step.columns.shape[1] for step in written.trace] == lengths
    assert [step.committed.sum(-1).tolist() for step in written.trace] == [[n, n] for n in committed]
    assert written.nfe == [len(lengths)] * 2
    assert written.response_tokens == [length] * 2
    assert [len(row) for row in written.sequences] == [2 + length, 1 + length]


@pytest.mark.parametrize("proposal", PROPOSALS)
def test_a_guided_step_counts_two_passes(proposal: str, random_hmm: Callable[..., HMM]) -> None:
    config = DecodingConfig(proposal=proposal, steps=6, max_new_tokens=16, block_length=8, stop_at_eos=False)
    prompts = [[3, 4, 5], [6]]
    plain = generate(tiny(), prompts, config, circuit=random_hmm(4, 200, 8))
    guided = generate(tiny(), prompts, config.replace(cfg_scale=1.0), circuit=random_hmm(4, 200, 8))
    assert (plain.nfe, guided.nfe) == ([6, 6], [12, 12])


def test_the_trace_tells_what_was_committed_when(fixed_logits: Callable[..., Any]) -> None:
    backbone = fixed_logits(some_logits(4), MASK)
    config = DecodingConfig(steps=4, max_new_tokens=4, block_length=4, trace=True)
    written = generate(backbone, [[1, 2]], config)
    assert written.trace is not None
    canvas = torch.tensor([[1, 2, MASK, MASK, MASK, MASK]])
    confidences = []
    for step in written.trace:
        position = int(step.committed[0].nonzero())
        canvas[0, 2 + position] = step.canvas[0, 2 + position]
        assert torch.equal(step.canvas, canvas)
        confidences.append(float(step.confidence[0, position]))
    assert canvas.tolist() == written.sequences
    expected = some_logits(4).softmax(-1).amax(-1).sort(descending=True).values
    torch.testing.assert_close(torch.tensor(confidences), expected)
    assert generate(backbone, [[1, 2]], config.replace(trace=False)).trace is None


def test_a_mask_token_within_the_vocabulary_is_never_written(
    fixed_logits: Callable[..., Any], random_hmm: Callable[..., HMM]
) -> None:
    logits = some_logits(8)
    logits[:, 2] += 10.0
    for proposal in PROPOSALS:
        for level in (0.0, 1.0):
            config = DecodingConfig(
                proposal=proposal, tau=level, temperature=level, steps=2, max_new_tokens=8, block_length=8
            )
            hmm = random_hmm(3, VOCABULARY, 8)
            written = generate(fixed_logits(logits, 2), [[1]] * 50, config, circuit=hmm)
            assert all(2 not in row for row in written.sequences)


@pytest.mark.parametrize("proposal", PROPOSALS)
def test_evidence_of_the_whole_vocabulary_is_dense_evidence(proposal: str, random_hmm: Callable[..., HMM]) -> None:
    hmm = random_hmm(8, 200, 8)
    config = DecodingConfig(proposal=proposal, tau=1.0, steps=4, max_new_tokens=16, block_length=8)

    def written(top_k: int | None) -> list[list[int]]:
        generator = torch.Generator().manual_seed(0)
        asked = config.replace(evidence_top_k=top_k)
        return generate(tiny(), [[3, 4], [5]], asked, circuit=hmm, generator=generator).sequences

    assert written(200) == written(None)
    if PROPOSALS[proposal].coupled:
        assert written(1) != written(None)


def test_no_prompts_give_no_rows(fixed_logits: Callable[..., Any]) -> None:
    backbone = fixed_logits(some_logits(4), MASK)
    written = generate(backbone, [], DecodingConfig(steps=1, max_new_tokens=4, block_length=4))
    assert (written.sequences, written.ended, written.response_tokens) == ([], [], [])
    assert (written.nfe, written.circuit_calls) == ([], [])
    assert backbone.rows_seen == []


def test_an_empty_prompt_is_continued(fixed_logits: Callable[..., Any]) -> None:
    written = generate(
        fixed_logits(some_logits(4), MASK), [[]], DecodingConfig(steps=2, max_new_tokens=4, block_length=4)
    )
    assert written.sequences == [some_logits(4).argmax(-1).tolist()]


def test_texts_and_their_token_ids_decode_alike(fixed_logits: Callable[..., Any]) -> None:
    tokenizer = train_tokenizer(["a b c d"], "words", 16)
    logits = torch.zeros(2, len(tokenizer))
    logits[:, tokenizer.convert_tokens_to_ids("c")] = 5.0
    backbone = fixed_logits(logits, tokenizer.mask_token_id, [tokenizer.eos_token_id], tokenizer)
    config = DecodingConfig(steps=1, max_new_tokens=2, block_length=2)
    from_text = generate(backbone, ["a b"], config)
    assert from_text.texts == ["c c"]
    assert from_text.sequences == generate(backbone, [tokenizer("a b")["input_ids"]], config).sequences


def test_generating_changes_no_gradient_and_no_mode(random_hmm: Callable[..., HMM]) -> None:
    hmm = random_hmm(4, 200, 8).requires_grad_(True)
    modes = [module.training for module in tiny().modules()]
    generate(tiny(), [[1]], DecodingConfig(steps=1, max_new_tokens=8, block_length=8), circuit=hmm)
    assert all(parameter.grad is None for parameter in (*hmm.parameters(), *tiny().parameters()))
    assert [module.training for module in tiny().modules()] == modes


@pytest.mark.parametrize("proposal", COUPLED)
def test_a_coupled_proposal_without_circuit_is_refused(proposal: str, fixed_logits: Callable[..., Any]) -> None:
    config = DecodingConfig(proposal=proposal, steps=1, max_new_tokens=4, block_length=4)
    with pytest.raises(UserError, match=rf"decoding\.proposal={proposal}.*circuit"):
        generate(fixed_logits(some_logits(4), MASK), [[1]], config)


def test_a_circuit_of_another_vocabulary_is_refused(
    fixed_logits: Callable[..., Any], random_hmm: Callable[..., HMM]
) -> None:
    config = DecodingConfig(steps=1, max_new_tokens=4, block_length=4)
    with pytest.raises(UserError, match=rf"{VOCABULARY + 1} tokens.*{VOCABULARY}"):
        generate(fixed_logits(some_logits(4), MASK), [[1]], config, circuit=random_hmm(3, VOCABULARY + 1, 4))


def test_blocks_longer_than_the_circuit_are_refused(
    fixed_logits: Callable[..., Any], random_hmm: Callable[..., HMM]
) -> None:
    config = DecodingConfig(steps=1, max_new_tokens=8, block_length=8)
    with pytest.raises(UserError, match=r"4-token blocks.*decoding\.block_length=8"):
        generate(fixed_logits(some_logits(8), MASK), [[1]], config, circuit=random_hmm(3, VOCABULARY, 4))


@pytest.mark.parametrize("token", [-1, VOCABULARY])
def test_token_ids_outside_the_vocabulary_are_refused(token: int, fixed_logits: Callable[..., Any]) -> None:
    config = DecodingConfig(steps=1, max_new_tokens=4, block_length=4)
    with pytest.raises(UserError, match=rf"prompt 1 .*{token}.*{VOCABULARY}"):
        generate(fixed_logits(some_logits(4), MASK), [[1], [2, token]], config)


def test_texts_without_a_tokenizer_are_refused(fixed_logits: Callable[..., Any]) -> None:
    config = DecodingConfig(steps=1, max_new_tokens=4, block_length=4)
    with pytest.raises(UserError, match="no tokenizer"):
        generate(fixed_logits(some_logits(4), MASK), ["a text"], config)


def test_one_text_instead_of_a_list_is_refused(fixed_logits: Callable[..., Any]) -> None:
    config = DecodingConfig(steps=1, max_new_tokens=4, block_length=4)
    with pytest.raises(UserError, match="list of texts"):
        generate(fixed_logits(some_logits(4), MASK), "a text", config)
