"""Remasking strategies: the score by which positions are committed, highest first."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Ranking:
    """A remasking strategy.

    Attributes:
        score: from untempered probabilities `(B, L, V)`, proposed tokens `(B, L)` (None before they are
            drawn) and uniforms `(B, L)` to scores `(B, L)`.
        reads_distribution: the score depends on the probabilities; else they may be None.
        draws: the score depends on the uniforms; else they may be None.
    """

    score: Callable[[Tensor, Tensor | None, Tensor], Tensor]
    reads_distribution: bool = True
    draws: bool = False


def _low_confidence(probabilities: Tensor, tokens: Tensor | None, uniforms: Tensor) -> Tensor:
    if tokens is None:
        return probabilities.amax(-1)
    return probabilities.gather(-1, tokens[..., None]).squeeze(-1)


def _margin(probabilities: Tensor, tokens: Tensor | None, uniforms: Tensor) -> Tensor:
    best = probabilities.topk(min(2, probabilities.shape[-1]), dim=-1).values
    return best[..., 0] - best[..., 1] if best.shape[-1] == 2 else best[..., 0]


def _entropy(probabilities: Tensor, tokens: Tensor | None, uniforms: Tensor) -> Tensor:
    return torch.special.xlogy(probabilities, probabilities).sum(-1)


def _random(probabilities: Tensor, tokens: Tensor | None, uniforms: Tensor) -> Tensor:
    return uniforms


def _left_to_right(probabilities: Tensor, tokens: Tensor | None, uniforms: Tensor) -> Tensor:
    length = uniforms.shape[1]
    return -torch.arange(length, device=uniforms.device, dtype=uniforms.dtype).expand_as(uniforms)


REMASKING: dict[str, Ranking] = {
    "low_confidence": Ranking(_low_confidence),
    "margin": Ranking(_margin),
    "entropy": Ranking(_entropy),
    "left_to_right": Ranking(_left_to_right, reads_distribution=False),
    "random": Ranking(_random, reads_distribution=False, draws=True),
}


def ranked(scores: Tensor, eligible: Tensor) -> Tensor:
    """`(B, L)` long: all positions of each row, the best-scored eligible ones first; ties go to the left."""
    return scores.masked_fill(~eligible, -torch.inf).argsort(dim=-1, descending=True, stable=True)


def best_first(scores: Tensor, eligible: Tensor, quota: Tensor) -> Tensor:
    """The `quota` best-scored eligible positions of each row; ties go to the left.

    Args:
        scores: `(B, L)`.
        eligible: `(B, L)` bool.
        quota: `(B,)` long; rows with fewer eligible positions give all they have.

    Returns:
        `(B, L)` bool.
    """
    order = ranked(scores, eligible)
    place = torch.empty_like(order).scatter_(
        1, order, torch.arange(order.shape[1], device=order.device).expand_as(order)
    )
    return eligible & (place < quota[:, None])
