"""What a row becomes does not depend on the rows beside it."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from codd_lightning.backbones import Backbone, load_backbone
from codd_lightning.circuits import HMM, Evidence
from codd_lightning.decoding import COMMIT, PROPOSALS, REMASKING, DecodingConfig, Generation, generate
from codd_lightning.decoding.question import Question
from codd_lightning.decoding.sampling import RowDraws

FIXTURES = Path(__file__).parents[1] / "fixtures"
PROMPTS: list[list[int]] = [[173, 77, 27], [], [176, 20, 28, 133, 124, 35, 9, 148, 131, 188, 76], [96]]
RULES: list[dict[str, Any]] = [{"commit": rule, "commit_bound": 0.3} for rule in COMMIT]
LAYOUT: dict[str, Any] = {"max_new_tokens": 20, "block_length": 8, "steps": 7}  # a short last block, uneven steps


@functools.cache
def backbone() -> Backbone:
    # float64: sums of a padded and of an unpadded batch then agree to the last bit of the float32 logits
    return load_backbone(FIXTURES / "a2d-qwen3-tiny", dtype="float64", attention="eager")


def decoded(order: list[int], hmm: HMM | None, config: DecodingConfig) -> Generation:
    generators = [torch.Generator().manual_seed(100 + i) for i in order]
    return generate(backbone(), [PROMPTS[i] for i in order], config, circuit=hmm, generator=generators)


def rows(generation: Generation) -> list[tuple[Any, ...]]:
    return list(
        zip(
            generation.sequences,
            generation.ended,
            generation.response_tokens,
            generation.nfe,
            generation.circuit_calls,
            strict=True,
        )
    )


@pytest.mark.parametrize("paradigm", ["block", "full"])
@pytest.mark.parametrize("sampled", [False, True], ids=["greedy", "sampled"])
@pytest.mark.parametrize("remasking", REMASKING)
@pytest.mark.parametrize("proposal", PROPOSALS)
def test_rows_decode_alike_alone_in_a_batch_and_in_reverse(
    proposal: str, remasking: str, sampled: bool, paradigm: str, random_hmm: Callable[..., HMM]
) -> None:
    hmm = random_hmm(8, 200, 8)
    level = 1.0 if sampled else 0.0
    config = DecodingConfig(
        paradigm=paradigm, proposal=proposal, remasking=remasking, tau=level, temperature=level, **LAYOUT
    )
    together = rows(decoded([0, 1, 2, 3], hmm, config))
    assert rows(decoded([3, 2, 1, 0], hmm, config)) == together[::-1]
    for i in range(len(PROMPTS)):
        assert rows(decoded([i], hmm, config)) == [together[i]]


@pytest.mark.parametrize(
    "options", [{"eos": "last"}, {"gamma": 0.5}, {"cfg_scale": 0.7}, {"evidence_top_k": 20}, *RULES]
)
def test_rows_decode_alike_under_every_other_option(options: dict[str, Any], random_hmm: Callable[..., HMM]) -> None:
    hmm = random_hmm(8, 200, 8)
    with torch.no_grad():
        hmm.emission_logits[:, 1] += 4.0  # EOS is common, so rows finish at different steps
    config = DecodingConfig(tau=1.0, temperature=1.0, **LAYOUT, **options)
    together = rows(decoded([0, 1, 2, 3], hmm, config))
    assert len({row[3] for row in together}) > 1
    for i in range(len(PROMPTS)):
        assert rows(decoded([i], hmm, config)) == [together[i]]


def test_one_generator_for_all_rows_gives_the_same_texts_again(random_hmm: Callable[..., HMM]) -> None:
    config = DecodingConfig(tau=1.0, **LAYOUT)
    hmm = random_hmm(8, 200, 8)

    def written(seed: int) -> list[list[int]]:
        generator = torch.Generator().manual_seed(seed)
        return generate(backbone(), PROMPTS, config, circuit=hmm, generator=generator).sequences

    assert written(1) == written(1)
    assert written(1) != written(2)


def test_equal_prompts_of_one_generator_get_draws_of_their_own(random_hmm: Callable[..., HMM]) -> None:
    config = DecodingConfig(tau=1.0, **LAYOUT)
    generator = torch.Generator().manual_seed(0)
    written = generate(backbone(), [[5, 6]] * 3, config, circuit=random_hmm(8, 200, 8), generator=generator).sequences
    assert len({tuple(row) for row in written}) == 3


@pytest.mark.parametrize("remasking", REMASKING)
@pytest.mark.parametrize("proposal", PROPOSALS)
def test_draws_of_a_row_do_not_depend_on_the_quotas_beside_it(
    proposal: str, remasking: str, random_hmm: Callable[..., HMM]
) -> None:
    hmm = random_hmm(3, 6, 4)
    logits = torch.randn(2, 4, 6, generator=torch.Generator().manual_seed(0))

    def state_after(rows: list[int], quotas: list[int]) -> torch.Tensor:
        generators = [torch.Generator().manual_seed(row) for row in rows]
        canvas = torch.full((len(rows), 4), 6)
        question = Question(
            logits=logits[rows],
            masked=torch.ones(len(rows), 4, dtype=torch.bool),
            opened=torch.ones(len(rows), 4, dtype=torch.bool),
            behind=torch.zeros(len(rows), dtype=torch.bool),
            quota=torch.tensor(quotas),
            ranking=REMASKING[remasking],
            room=torch.full((len(rows),), 4),
            draws=RowDraws(generators, torch.device("cpu")),
            eos_token_ids=torch.tensor([], dtype=torch.long),
            eos_last=False,
            temperature=1.0,
            top_p=None,
            top_k=None,
            tau=1.0,
            posterior=hmm.posterior(Evidence.from_logits(logits[rows], canvas, 6)),
        )
        PROPOSALS[proposal].answer(question)
        return generators[0].get_state()

    assert torch.equal(state_after([0, 1], [1, 3]), state_after([0], [1]))
