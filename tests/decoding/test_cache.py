"""Cached keys and values: exact while what they were computed from stands."""

import functools
from pathlib import Path
from typing import Any

import pytest
import torch

from codd_lightning.backbones import Backbone, load_backbone
from codd_lightning.decoding import DecodingConfig, generate
from codd_lightning.errors import UserError

FIXTURES = Path(__file__).parents[1] / "fixtures"
NAMES = ["llada-tiny", "dream-tiny", "a2d-qwen3-tiny"]
LENGTHS = [9, 5, 12]


@functools.cache
def backbone(name: str, attention: str = "eager") -> Backbone:
    return load_backbone(FIXTURES / name, attention=attention)


def batch(name: str, padded: str) -> tuple[torch.Tensor, torch.Tensor | None]:
    generator = torch.Generator().manual_seed(0)
    canvas = torch.randint(2, 190, (3, 20), generator=generator)
    if padded == "none":
        return canvas, None
    mask = torch.ones(3, 20, dtype=torch.bool)
    mask[1, :5] = False
    return canvas, mask


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("padded", ["none", "left"])
@pytest.mark.parametrize("kind", ["prefix", "dual"])
@pytest.mark.parametrize("name", NAMES)
def test_a_pass_over_the_rest_says_what_a_pass_over_everything_says(
    name: str, kind: str, padded: str, attention: str
) -> None:
    model = backbone(name, attention)
    canvas, mask = batch(name, padded)
    columns, every = torch.arange(8, 14), torch.arange(20)
    keep = every < 8 - model.lookback
    if kind == "dual":
        keep |= every > 13
    with torch.no_grad():
        first = model.predict(canvas, columns, attention_mask=mask, keep=keep)
        assert first.cache is not None
        again = model.predict(canvas, columns, first.cache, mask)
        torch.testing.assert_close(again.logits, first.logits, atol=2e-4, rtol=1e-4)
        some = torch.tensor([2, 1])
        fewer = model.predict(canvas[some], columns, first.cache.rows(some), None if mask is None else mask[some])
        torch.testing.assert_close(fewer.logits, first.logits[some], atol=2e-4, rtol=1e-4)
        changed = canvas.clone()
        changed[:, 10] = 7
        moved = model.predict(changed, columns, first.cache, mask)
        assert not torch.allclose(moved.logits, first.logits, atol=1e-3)


@pytest.mark.parametrize("name", NAMES)
def test_one_step_a_block_needs_no_cache_and_decodes_alike(name: str) -> None:
    prompts = [[5, 6, 7], [8], [9] * 6]
    config = DecodingConfig(steps=4, max_new_tokens=16, block_length=4, stop_at_eos=False)
    plain = generate(backbone(name), prompts, config).sequences
    for cache in ("prefix", "dual"):
        assert generate(backbone(name), prompts, config.replace(cache=cache)).sequences == plain


@pytest.mark.parametrize("options", [{}, {"cfg_scale": 0.5}, {"eos": "last"}])
@pytest.mark.parametrize("cache", ["prefix", "dual"])
def test_rows_that_finish_early_leave_the_others_their_own_cache(cache: str, options: dict[str, Any]) -> None:
    model = backbone("a2d-qwen3-tiny")
    prompts = [[173, 77, 27], [176, 20, 28, 133], [96], [98, 64]]
    config = DecodingConfig(steps=16, max_new_tokens=16, block_length=8, cache=cache, temperature=1.0, **options)
    seeds = [torch.Generator().manual_seed(i) for i in range(4)]
    together = generate(model, prompts, config, generator=seeds)
    for i, prompt in enumerate(prompts):
        alone = generate(model, [prompt], config, generator=[torch.Generator().manual_seed(i)])
        assert alone.sequences == [together.sequences[i]]


def test_a_position_within_the_cache_is_refused() -> None:
    model = backbone("llada-tiny")
    canvas, _ = batch("llada-tiny", "none")
    kept = model.predict(canvas, torch.arange(8, 14), keep=torch.arange(20) < 8).cache
    with pytest.raises(UserError, match="cache holds already"):
        model.predict(canvas, torch.arange(7, 9), kept)


def test_a_backbone_without_keys_and_values_is_named(fixed_logits) -> None:
    config = DecodingConfig(steps=1, max_new_tokens=4, block_length=4, cache="dual")
    with pytest.raises(UserError, match="cache=dual needs a backbone"):
        generate(fixed_logits(torch.zeros(4, 6), 9), [[1]], config)
