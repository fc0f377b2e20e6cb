"""The masking process: what may be masked, how often, and by whose randomness."""

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from codd_lightning.diffusion import CANVASES, Noised, corrupt

MASK = 99
EVERY_CANVAS = [*CANVASES, "mixed"]


def generators(seeds: Sequence[int]) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def responses(*spans: tuple[int, int], width: int) -> Tensor:
    """`(B, width)` response masks, one span of columns a row."""
    column = torch.arange(width)
    return torch.stack([(column >= start) & (column < end) for start, end in spans])


def tokens(rows: int, width: int) -> Tensor:
    return torch.arange(rows * width).reshape(rows, width) % 90


def noised_rows(rows: int, prompt: int, length: int, canvas: str, **options: Any) -> Noised:
    mask = responses(*[(prompt, prompt + length)] * rows, width=prompt + length)
    return corrupt(tokens(rows, prompt + length), mask, MASK, generators(range(rows)), canvas=canvas, **options)


def scores_outside(scored: Tensor, block: int) -> bool:
    """Whether any token outside a block is scored."""
    return bool(scored[torch.arange(len(scored)) != block].any())


@pytest.mark.parametrize("canvas", EVERY_CANVAS)
def test_only_response_tokens_are_masked_and_the_others_stay(canvas: str) -> None:
    response = responses((4, 20), (8, 24), (2, 10), (5, 5), width=24)
    clean = tokens(4, 24)
    some = False
    for seed in range(20):
        noised = corrupt(clean, response, MASK, generators(range(seed, seed + 4)), canvas=canvas, block_length=8)
        some |= bool(noised.masked.any())
        assert not (noised.masked & ~response).any()
        assert not (noised.scored & ~noised.masked).any()
        assert torch.equal(noised.canvas, torch.where(noised.masked, MASK, clean))
    assert some


def test_each_response_token_is_masked_with_probability_t() -> None:
    rows, length = 400, 50
    levels = torch.linspace(0.05, 1.0, 20).repeat_interleave(rows // 20)
    noised = noised_rows(rows, 3, length, "uniform", t=levels)
    shares = noised.masked[:, 3:].float().reshape(20, -1).mean(-1)
    for t, share in zip(levels[:: rows // 20].tolist(), shares.tolist(), strict=True):
        spread = math.sqrt(t * (1 - t) / (rows // 20 * length))
        assert abs(share - t) <= 4.5 * spread + 1e-9
    by_column = noised.masked[:, 3:].float().mean(0)  # no column is favoured
    assert by_column.min() > by_column.mean() - 0.12
    assert by_column.max() < by_column.mean() + 0.12


def test_given_levels_are_kept() -> None:
    levels = torch.tensor([0.25, 0.5, 1.0])
    assert torch.equal(noised_rows(3, 2, 8, "uniform", t=levels, fully_masked=1.0).t, levels)


def test_drawn_levels_are_uniform_on_zero_to_one() -> None:
    t = noised_rows(4000, 1, 2, "uniform").t
    assert bool(((t > 0) & (t <= 1)).all())
    shares = torch.histc(t, bins=10, min=0.0, max=1.0) / len(t)
    assert bool(((shares - 0.1).abs() < 4.5 * math.sqrt(0.09 / len(t))).all())


def test_the_smallest_draw_is_the_highest_level_so_that_no_level_is_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "rand", lambda *size, **options: torch.zeros(size))
    noised = noised_rows(2, 1, 4, "uniform")
    assert noised.t.tolist() == [1.0, 1.0]
    assert bool(noised.masked[:, 1:].all())


def test_masked_shares_follow_drawn_levels() -> None:
    noised = noised_rows(300, 2, 400, "uniform")
    shares = noised.masked[:, 2:].float().mean(-1)
    assert float((shares - noised.t).abs().max()) < 5 * math.sqrt(0.25 / 400)


def test_block_canvases_are_clean_before_the_current_block_and_all_masked_after_it() -> None:
    rows, prompt, length, blocks = 300, 5, 4, 3
    noised = noised_rows(rows, prompt, length * blocks, "block", block_length=length)
    masked = noised.masked[:, prompt:].reshape(rows, blocks, length)
    scored = noised.scored[:, prompt:].reshape(rows, blocks, length)
    chosen = torch.full((rows,), -1)
    for row in range(rows):
        fits = [
            block
            for block in range(blocks)
            if not masked[row, :block].any()
            and bool(masked[row, block + 1 :].all())
            and not scores_outside(scored[row], block)
        ]
        assert fits
        chosen[row] = fits[0]
    sure = chosen[scored.any(-1).any(-1)]
    assert set(sure.tolist()) == set(range(blocks))
    assert torch.equal(noised.candidates, torch.full((rows,), length))


def test_block_canvases_mask_and_score_the_current_block_with_probability_t() -> None:
    rows, length, blocks, t = 2000, 4, 3, 0.3
    noised = noised_rows(rows, 1, length * blocks, "block", block_length=length, t=torch.full((rows,), t))
    share = float(noised.scored.float().sum()) / (rows * length)
    assert abs(share - t) < 4.5 * math.sqrt(t * (1 - t) / (rows * length))
    blocks_masked_after = noised.masked.sum(-1) - noised.scored.sum(-1)
    counts = torch.bincount(blocks_masked_after // length, minlength=blocks) / rows
    assert torch.equal(blocks_masked_after % length, torch.zeros(rows, dtype=torch.long))
    assert bool(((counts - 1 / blocks).abs() < 4.5 * math.sqrt(2 / 9 / rows)).all())  # every block as often


def test_the_current_block_may_be_a_short_last_one() -> None:
    noised = noised_rows(200, 2, 6, "block", block_length=4)
    assert set(noised.candidates.tolist()) == {2, 4}
    assert not (noised.scored.sum(-1) > noised.candidates).any()


def test_uniform_canvases_score_what_they_mask() -> None:
    noised = noised_rows(50, 2, 8, "uniform")
    assert torch.equal(noised.scored, noised.masked)
    assert torch.equal(noised.candidates, torch.full((50,), 8))


def test_mixed_canvases_are_half_of_each() -> None:
    rows = 1000
    candidates = noised_rows(rows, 1, 16, "mixed", block_length=4).candidates
    assert set(candidates.tolist()) == {4, 16}
    assert abs(int((candidates == 4).sum()) - rows / 2) < 4.5 * math.sqrt(rows / 4)


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_a_share_of_the_rows_is_fully_masked(share: float) -> None:
    rows = 1000
    noised = noised_rows(rows, 1, 32, "uniform", fully_masked=share)
    full = noised.t == 1.0
    assert bool(noised.masked[full, 1:].all())
    assert abs(int(full.sum()) - share * rows) <= 4.5 * math.sqrt(share * (1 - share) * rows)


@pytest.mark.parametrize("canvas", EVERY_CANVAS)
def test_noise_of_a_row_is_the_same_alone_in_a_batch_and_in_another_order(canvas: str) -> None:
    response = responses(*[(3, 19)] * 4, width=19)
    clean = tokens(4, 19)

    def noise(order: list[int]) -> Noised:
        return corrupt(clean[order], response[order], MASK, generators(order), canvas=canvas, block_length=8)

    together = noise([0, 1, 2, 3])
    assert torch.equal(noise([3, 1, 2, 0]).canvas, together.canvas[[3, 1, 2, 0]])
    for row in range(4):
        alone = noise([row])
        assert torch.equal(alone.canvas[0], together.canvas[row])
        assert torch.equal(alone.scored[0], together.scored[row])
        assert alone.t[0] == together.t[row]


@pytest.mark.parametrize("canvas", EVERY_CANVAS)
def test_noise_of_a_row_does_not_depend_on_the_padding_that_its_batch_asks_for(canvas: str) -> None:
    for seed in range(10):
        found = []
        for left, right in ((0, 0), (4, 0), (0, 8), (3, 8)):  # columns of padding beside prompt and response
            response = responses((left + 3, left + 19), width=left + 19 + right)
            clean = tokens(1, response.shape[1])
            noised = corrupt(clean, response, MASK, generators([seed]), canvas=canvas, block_length=8)
            found.append(noised.masked[0, left + 3 : left + 19].tolist())
        assert found.count(found[0]) == len(found)


def test_rows_with_generators_of_their_own_get_noise_of_their_own() -> None:
    noised = noised_rows(6, 1, 32, "uniform")
    assert len({tuple(row) for row in noised.masked.tolist()}) == 6
    assert len(set(noised.t.tolist())) == 6


@pytest.mark.parametrize("t", [0.01, 0.3, 0.5, 1.0])
def test_from_left_the_last_tokens_of_one_block_are_masked_and_scored(t: float) -> None:
    noised = noised_rows(60, 3, 24, "block", block_length=8, from_left=1.0, t=torch.full((60,), t))
    scored = noised.scored[:, 3:].view(60, 3, 8)
    last = torch.arange(8) >= 8 - math.ceil(t * 8)
    chosen = scored.any(-1)
    assert torch.equal(chosen.sum(1), torch.ones(60).long())
    assert bool((scored[chosen] == last).all())
    later = chosen.cumsum(1) - chosen.long() == 1
    masked = noised.masked[:, 3:].view(60, 3, 8)
    assert bool(masked[later].all())
    assert torch.equal(masked[chosen], scored[chosen])
    assert not masked[~(later | chosen)].any()


def test_a_share_of_the_blocks_is_masked_from_left() -> None:
    noised = noised_rows(1000, 1, 32, "block", block_length=32, from_left=0.3, t=torch.full((1000,), 0.5))
    share = float((noised.masked[:, 1:] == (torch.arange(32) >= 16)).all(1).float().mean())
    assert abs(share - 0.3) < 4.5 * math.sqrt(0.21 / 1000)
    uniform = noised_rows(50, 1, 32, "uniform", from_left=1.0, t=torch.full((50,), 0.5))
    assert torch.equal(uniform.masked, noised_rows(50, 1, 32, "uniform", t=torch.full((50,), 0.5)).masked)
