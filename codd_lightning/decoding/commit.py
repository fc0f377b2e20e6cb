"""Commit rules: how many positions one step commits, best-ranked first, where it is not a fixed quota."""

from collections.abc import Callable

import torch
from torch import Tensor

from codd_lightning.decoding.remasking import ranked

# From probabilities (B, L, V), all positions of each row best first (B, L), whether each of those may be committed
# (B, L), which the first ones may, and a bound, to the number of positions to commit (B,).
CommitRule = Callable[[Tensor, Tensor, Tensor, float], Tensor]


def _threshold(probabilities: Tensor, order: Tensor, there: Tensor, bound: float) -> Tensor:
    """While the largest probability is above the bound (Fast-dLLM; Wu et al., 2025, arXiv 2505.22618)."""
    above = probabilities.amax(-1).gather(1, order) > bound
    return (above & there).long().cumprod(-1).sum(-1)


def _factor(probabilities: Tensor, order: Tensor, there: Tensor, bound: float) -> Tensor:
    """The largest n with `(n + 1)(1 − c_n) < bound`, c_n the least confidence of n (Fast-dLLM, its factor form)."""
    confidence = probabilities.amax(-1).gather(1, order).cummin(-1).values
    n = torch.arange(1, confidence.shape[1] + 1, device=confidence.device)
    return (((n + 1) * (1.0 - confidence) < bound) * there * n).amax(-1)


def _entropy_bound(probabilities: Tensor, order: Tensor, there: Tensor, bound: float) -> Tensor:
    """While the sum of the entropies without the largest is at most the bound.

    That sum bounds how far the tokens' joint distribution is from independent (EB sampler; Ben-Hamu et al.,
    2025, arXiv 2505.24857).
    """
    entropy = -torch.special.xlogy(probabilities, probabilities).sum(-1).gather(1, order)
    without_largest = entropy.cumsum(-1) - entropy.cummax(-1).values
    return ((without_largest <= bound) & there).sum(-1)


def _joint(probabilities: Tensor, order: Tensor, there: Tensor, bound: float) -> Tensor:
    """While the largest probabilities have a product of at least the bound.

    That is the probability that none of them is wrong, if they were independent. `any_order` that reads the
    circuit knows the exact one, of the tokens that it has drawn in this step, and goes by it instead. Where tokens are
    drawn and not the most probable, it filters them: a draw that takes the product below the bound is drawn again in
    the next step.
    """
    confidence = probabilities.amax(-1).gather(1, order)
    return ((confidence.cumprod(-1) >= bound) & (confidence > 0.0) & there).sum(-1)


COMMIT: dict[str, CommitRule] = {
    "threshold": _threshold,
    "factor": _factor,
    "entropy_bound": _entropy_bound,
    "joint": _joint,
}

INDEPENDENCE = "independence"  # tests positions by further passes of the backbone: `decoding/independence.py`


def how_many(rule: str, probabilities: Tensor, scores: Tensor, masked: Tensor, bound: float) -> Tensor:
    """What a rule commits, at least one position of each row that has one.

    Args:
        rule: one of `COMMIT`.
        probabilities: `(B, L, V)`.
        scores: `(B, L)`, by which positions are ranked, highest first.
        masked: `(B, L)` bool, those that may be committed.
        bound: of the rule.

    Returns:
        `(B,)` long, how many of the best-ranked.
    """
    order = ranked(scores, masked)
    found = COMMIT[rule](probabilities, order, masked.gather(1, order), bound)
    return torch.maximum(found, masked.any(-1).long())
