"""Masking response tokens, as training and likelihood evaluation do it."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class NoiseLevel:
    """How much of each sample is masked: all that the weights of its loss depend on.

    Attributes:
        t: `(B,)`, noise level in (0, 1].
        candidates: `(B,)` long, how many tokens t speaks of: each was masked with probability t.
        scored: `(B,)` long, how many of them were masked, so that the loss counts them.
    """

    t: Tensor
    candidates: Tensor
    scored: Tensor

    def rows(self, index: Tensor) -> "NoiseLevel":
        """Those of some rows, any number of times each."""
        return NoiseLevel(self.t[index], self.candidates[index], self.scored[index])

    def to(self, device: torch.device | str) -> "NoiseLevel":
        """The same on a device."""
        return NoiseLevel(self.t.to(device), self.candidates.to(device), self.scored.to(device))


@dataclass(frozen=True)
class Noised:
    """A clean canvas with some response tokens masked.

    Attributes:
        canvas: `(B, T)` long, mask token where `masked`.
        masked: `(B, T)` bool.
        scored: `(B, T)` bool, the masked tokens that the loss counts: those that t speaks of.
        candidates: `(B,)` long, how many tokens t speaks of: each was masked with probability t.
        t: `(B,)`, noise level in (0, 1].
    """

    canvas: Tensor
    masked: Tensor
    scored: Tensor
    candidates: Tensor
    t: Tensor

    @property
    def level(self) -> NoiseLevel:
        """How much of each row is masked."""
        return NoiseLevel(self.t, self.candidates, self.scored.sum(-1))


@dataclass(frozen=True)
class RowMask:
    """`(T,)` bool: what is masked in one row, what of it the loss counts, and what it could have counted."""

    masked: Tensor
    scored: Tensor
    candidates: Tensor


def uniform(response: Tensor, t: float, block_length: int, generator: torch.Generator, from_left: bool) -> RowMask:
    """Each response token is masked with probability t (paper Eq. 7)."""
    masked = _drawn(response, t, generator)
    return RowMask(masked, masked, response)


def block(response: Tensor, t: float, block_length: int, generator: torch.Generator, from_left: bool) -> RowMask:
    """What block decoding meets: earlier blocks clean, one masked with probability t, later ones all masked.

    Only the tokens of that one block are scored. `from_left`, its last tokens are masked, a share t of them, as where
    decoding goes from left to right.
    """
    start = int(response.int().argmax())
    blocks = max(-(-int(response.sum()) // block_length), 1)
    chosen = start + block_length * int(torch.randint(blocks, (1,), generator=generator))
    column = torch.arange(len(response))
    last = column >= chosen + block_length - math.ceil(t * block_length)
    drawn = last if from_left else _drawn(response, t, generator)
    current = response & (column >= chosen) & (column < chosen + block_length)
    later = response & (column >= chosen + block_length)
    return RowMask((current & drawn) | later, current & drawn, current)


def _drawn(response: Tensor, t: float, generator: torch.Generator) -> Tensor:
    """`(T,)` bool: response tokens drawn with probability t, whatever stands around the response."""
    drawn = torch.zeros_like(response)
    drawn[response] = torch.rand(int(response.sum()), generator=generator) < t
    return drawn


# What is masked in one row, given its (T,) response mask, t, the block length, randomness, and whether from left.
MaskingRule = Callable[[Tensor, float, int, torch.Generator, bool], RowMask]
CANVASES: dict[str, MaskingRule] = {"uniform": uniform, "block": block}


def corrupt(
    input_ids: Tensor,
    response_mask: Tensor,
    mask_token_id: int,
    generators: Sequence[torch.Generator],
    *,
    canvas: str = "uniform",
    block_length: int = 32,
    fully_masked: float = 0.0,
    from_left: float = 0.0,
    t: Tensor | None = None,
) -> Noised:
    """Draws a noise level `t ~ U(0, 1]` for each row and masks its response accordingly.

    Args:
        input_ids: `(B, T)` clean tokens.
        response_mask: `(B, T)` bool; only these tokens are ever masked.
        mask_token_id: what stands in for them.
        generators: one per row, so that a row's noise does not depend on its batch.
        canvas: "uniform" or "block"; "mixed" draws one of the two, evenly, for each row.
        block_length: of "block" canvases.
        fully_masked: the share of rows whose noise level is 1.
        from_left: the share of "block" canvases whose last tokens are masked, instead of any.
        t: `(B,)` noise levels to use instead of drawn ones.
    """
    rows, levels = [], []
    for row, generator in enumerate(generators):
        kind_draw, full_draw, level_draw = torch.rand(3, generator=generator).tolist()
        level = 1.0 - level_draw if t is None else float(t[row])  # rand is in [0, 1), t in (0, 1]
        level = 1.0 if t is None and full_draw < fully_masked else level
        kind = (("uniform", "block")[kind_draw < 0.5]) if canvas == "mixed" else canvas
        left = kind == "block" and from_left > 0.0 and float(torch.rand((), generator=generator)) < from_left
        rows.append(CANVASES[kind](response_mask[row].cpu(), level, block_length, generator, left))
        levels.append(level)
    masked = torch.stack([row.masked for row in rows]).to(input_ids.device)
    return Noised(
        canvas=input_ids.masked_fill(masked, mask_token_id),
        masked=masked,
        scored=torch.stack([row.scored for row in rows]).to(input_ids.device),
        candidates=torch.stack([row.candidates.sum() for row in rows]).to(input_ids.device),
        t=torch.tensor(levels, device=input_ids.device),
    )
