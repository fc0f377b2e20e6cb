"""Gaps anywhere in a text, filled; everything else stays."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from codd_lightning.backbones import Backbone, load_backbone
from codd_lightning.circuits import HMM
from codd_lightning.decoding import PROPOSALS, DecodingConfig, generate, infill
from codd_lightning.errors import UserError

FIXTURES = Path(__file__).parents[1] / "fixtures"


@functools.cache
def tiny() -> Backbone:
    return load_backbone(FIXTURES / "a2d-qwen3-tiny", dtype="float64", attention="eager")


def texts() -> list[list[int]]:
    m = tiny().mask_token_id
    return [[5, m, 7, m, m, 9, 10, 11, m, m, 3], [m, 4], [8, 9, 10], [m] * 9]


@pytest.mark.parametrize("paradigm", ["block", "full"])
@pytest.mark.parametrize("proposal", PROPOSALS)
def test_masks_are_filled_and_the_rest_stays_in_any_batch(
    proposal: str, paradigm: str, random_hmm: Callable[..., HMM]
) -> None:
    config = DecodingConfig(paradigm=paradigm, proposal=proposal, steps=2, max_new_tokens=4, block_length=4)
    hmm = random_hmm(8, 200, 4)
    filled = infill(tiny(), texts(), config, hmm, [torch.Generator().manual_seed(i) for i in range(4)])
    m = tiny().mask_token_id
    for given, found in zip(texts(), filled.sequences, strict=True):
        assert len(given) == len(found)
        assert m not in found
        assert all(a in (m, b) for a, b in zip(given, found, strict=True))
    assert filled.response_tokens == [5, 1, 0, 9]
    assert filled.nfe[2] == 0
    for number, given in enumerate(texts()):
        alone = infill(tiny(), [given], config, hmm, [torch.Generator().manual_seed(number)])
        assert alone.sequences == [filled.sequences[number]]


def test_a_gap_at_the_end_is_a_response(random_hmm: Callable[..., HMM]) -> None:
    prompt, m = [5, 6, 7, 8], tiny().mask_token_id
    hmm = random_hmm(8, 200, 4)
    config = DecodingConfig(steps=4, max_new_tokens=8, block_length=4, stop_at_eos=False)
    written = generate(tiny(), [prompt], config, circuit=hmm)
    filled = infill(tiny(), [prompt + [m] * 8], config.replace(steps=2), circuit=hmm)
    assert filled.sequences == written.sequences


@pytest.mark.parametrize(("options", "named"), [({"cfg_scale": 1.0}, "cfg_scale"), ({"eos": "last"}, "eos=last")])
def test_options_of_responses_are_refused(options: dict[str, Any], named: str) -> None:
    with pytest.raises(UserError, match=named):
        infill(tiny(), texts(), DecodingConfig(**options))


def test_nothing_and_no_text_are_filled_with_nothing() -> None:
    assert infill(tiny(), [], DecodingConfig()).sequences == []
    assert infill(tiny(), [[]], DecodingConfig()).sequences == [[]]
    with pytest.raises(UserError, match="lists of token ids"):
        infill(tiny(), ["a text"], DecodingConfig())  # type: ignore[list-item]
