"""Block-causal backbones: the original code's logits and decodings, what is seen, and an exact cache."""

import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from codd_lightning.backbones import Backbone, load_backbone
from codd_lightning.circuits import HMM
from codd_lightning.decoding import DecodingConfig, generate
from codd_lightning.decoding.canvas import Canvas
from codd_lightning.decoding.predictor import Predictor
from codd_lightning.errors import UserError

FOLDER = Path(__file__).parents[1] / "fixtures" / "a2d-qwen3-tiny"
DECODINGS = json.loads((FOLDER / "reference_block_causal_decoding.json").read_text())


@functools.cache
def backbone(block_length: int) -> Backbone:
    return load_backbone(FOLDER, attention="block_causal", block_length=block_length)


def some_canvas(rows: int = 3, width: int = 29, padded: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    canvas = torch.randint(2, 190, (rows, width), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(canvas, dtype=torch.bool)
    mask[-1, :padded] = False
    return canvas, mask


def test_logits_are_those_of_the_original_code() -> None:
    reference = np.load(FOLDER / "reference_block_causal_logits.npz")
    start, length = int(reference["prompt_length"]), int(reference["block_length"])
    ids = torch.from_numpy(reference["input_ids"])
    with torch.no_grad():
        logits = backbone(length).predict(ids, response_start=start).logits
    torch.testing.assert_close(logits, torch.from_numpy(reference["logits"]), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("cache", ["none", "prefix"])
@pytest.mark.parametrize("case", DECODINGS["cases"], ids=lambda case: f"{case['steps']}-{case['block_length']}")
def test_decodings_are_those_of_the_original_code(case: dict[str, Any], cache: str) -> None:
    config = DecodingConfig.preset(
        "reference",
        cache=cache,
        **{name: case[name] for name in ("steps", "max_new_tokens", "block_length", "remasking")},
    )
    generation = generate(backbone(case["block_length"]), DECODINGS["prompts"], config)
    assert generation.sequences == case["sequences"]


@pytest.mark.parametrize("start", [0, 5, 13])
def test_a_token_sees_its_block_and_all_before_it(start: int) -> None:
    """A changed token moves the logits of its own block and of later ones, and no others: every pair of columns."""
    length, width = 4, 17
    canvas = some_canvas(1, width)[0]
    with torch.no_grad():
        before = backbone(length).predict(canvas, response_start=start).logits[0]
        for changed in range(width):
            other = canvas.clone()
            other[0, changed] = (other[0, changed] + 1) % 190
            moved = (backbone(length).predict(other, response_start=start).logits[0] - before).abs().amax(-1) > 1e-7
            sees = [(column - start) // length >= (changed - start) // length for column in range(width)]
            assert moved.tolist() == sees


@pytest.mark.parametrize("padded", [0, 6])
def test_a_cache_that_grows_block_by_block_says_what_a_full_pass_says(padded: int) -> None:
    model, start, length = backbone(8), 13, 8
    canvas, mask = some_canvas(padded=padded)
    cache = None
    with torch.no_grad():
        for begin in range(start, canvas.shape[1], length):
            end = min(begin + length, canvas.shape[1])
            columns = torch.arange(begin, end)
            full = model.predict(canvas, columns, attention_mask=mask, response_start=start).logits
            keep = torch.arange(end) < begin
            part, seen = canvas[:, :end], mask[:, :end]
            found = model.predict(part, columns, cache, seen, keep, response_start=start)
            torch.testing.assert_close(found.logits, full, atol=1e-5, rtol=1e-5)
            cache = found.cache
            assert cache is not None
            assert cache.layers[0][0].shape[2] == begin
            again = model.predict(part, columns, cache, seen, response_start=start)
            torch.testing.assert_close(again.logits, full, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("proposal", ["factorized", "any_order", "latent"])
def test_texts_are_the_same_with_and_without_the_cache(proposal: str) -> None:
    """Ragged prompts, rows that finish early, with a circuit on the same blocks."""
    model = load_backbone(FOLDER, dtype="float64", attention="block_causal", block_length=8)
    hmm = HMM(4, model.vocab_size, 8)
    hmm.reset_parameters(torch.Generator().manual_seed(0))
    model.eos_token_ids = [int(i) for i in range(60, 70)]  # so that some rows finish early
    texts = []
    for cache in ("none", "prefix"):
        config = DecodingConfig(
            proposal=proposal, steps=16, max_new_tokens=32, block_length=8, cache=cache, temperature=1.0, tau=1.0
        )
        generators = [torch.Generator().manual_seed(i) for i in range(3)]
        circuit = None if proposal == "factorized" else hmm
        found = generate(model, DECODINGS["prompts"], config, circuit=circuit, generator=generators)
        texts.append((found.sequences, found.nfe))
    assert texts[0] == texts[1]
    assert len(set(texts[0][1])) > 1, "some rows finish before others"


@pytest.mark.parametrize("length", [8, None])
def test_a_row_that_joins_later_is_answered_as_without_a_cache(length: int | None) -> None:
    """A row may have nothing to denoise in the first blocks: what is kept then is none of its."""
    model = load_backbone(FOLDER, dtype="float64", **({} if length is None else blocks_of(length)))
    prompts = [[5, 6, 7], [8, 9, 10, 11, 12], [13, 14]]
    canvas = Canvas.of_prompts(prompts, 24, model.mask_token_id, torch.device("cpu"))
    cached, plain = (
        Predictor(model, DecodingConfig(steps=24, max_new_tokens=24, block_length=8, cache=cache), canvas)
        for cache in ("prefix", "none")
    )
    first, second = torch.arange(5, 13), torch.arange(13, 21)
    with torch.no_grad():
        for rows, columns in [([0, 2], first), ([0], first), ([1, 2], second), ([1], second), ([0, 1, 2], second)]:
            asked = torch.tensor(rows)
            torch.testing.assert_close(cached(asked, columns).logits, plain(asked, columns).logits)


def blocks_of(length: int) -> dict[str, Any]:
    return {"attention": "block_causal", "block_length": length}


def test_finished_blocks_are_not_computed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_backbone(FOLDER, attention="block_causal", block_length=8)
    widths: list[int] = []
    model.model.base_model.register_forward_pre_hook(
        lambda module, args, options: widths.append(options["input_ids"].shape[1]), with_kwargs=True
    )
    config = DecodingConfig.preset("reference", steps=8, max_new_tokens=32, block_length=8, cache="prefix")
    generate(model, [list(range(2, 14))], config)
    assert widths == [12 + 8, 8, 8 + 8, 8, 8 + 8, 8, 8 + 8, 8]  # what was committed last, and the present block


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"attention": "block_causal"}, "block_causal has blocks, others none"),
        ({"block_length": 8}, "block_causal has blocks, others none"),
        ({"attention": "block_causal", "block_length": 0}, "block_length=0 must be at least 1"),
    ],
)
def test_blocks_and_block_causal_attention_go_together(options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        load_backbone(FOLDER, **options)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"paradigm": "full"}, "sees block by block: use block"),
        ({"block_length": 16}, "decoding.block_length=16 does not fit the backbone's blocks of 8"),
        ({"cache": "dual"}, "use prefix"),
    ],
)
def test_decoders_that_need_more_than_blocks_are_refused(options: dict[str, Any], complaint: str) -> None:
    config = DecodingConfig(**{"steps": 8, "max_new_tokens": 32, "block_length": 8, **options})
    with pytest.raises(UserError, match=complaint):
        generate(backbone(8), [[5, 6]], config)
