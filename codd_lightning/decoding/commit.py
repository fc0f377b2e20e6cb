"""Commit rules: how many positions one step commits, where it is not a fixed quota."""

from collections.abc import Callable

import torch
from torch import Tensor

# From probabilities (B, L, V), positions that are still masked (B, L), and a bound, to the number of positions to
# commit (B,), at least one where there is one.
CommitRule = Callable[[Tensor, Tensor, float], Tensor]


def _threshold(probabilities: Tensor, masked: Tensor, bound: float) -> Tensor:
    """Every position whose largest probability is above the bound (Fast-dLLM; Wu et al., 2025, arXiv 2505.22618)."""
    return ((probabilities.amax(-1) > bound) & masked).sum(-1)


def _factor(probabilities: Tensor, masked: Tensor, bound: float) -> Tensor:
    """The largest n with `(n + 1)(1 − c_n) < bound`, c_n the n-th largest confidence (Fast-dLLM, its factor form)."""
    confidence = probabilities.amax(-1).masked_fill(~masked, -torch.inf).sort(-1, descending=True).values
    n = torch.arange(1, confidence.shape[1] + 1, device=confidence.device)
    return (((n + 1) * (1.0 - confidence) < bound) * n).amax(-1)


def _entropy_bound(probabilities: Tensor, masked: Tensor, bound: float) -> Tensor:
    """The most positions, least entropy first, the sum of whose entropies without the largest is at most the bound.

    That sum bounds how far the tokens' joint distribution is from independent (EB sampler; Ben-Hamu et al.,
    2025, arXiv 2505.24857).
    """
    entropy = -torch.special.xlogy(probabilities, probabilities).sum(-1)
    ascending = entropy.masked_fill(~masked, torch.inf).sort(-1).values
    without_largest = ascending.cumsum(-1) - ascending
    return ((without_largest <= bound) & ascending.isfinite()).sum(-1)


def _joint(probabilities: Tensor, masked: Tensor, bound: float) -> Tensor:
    """The most positions, surest first, whose largest probabilities have a product of at least the bound.

    That is the probability that none of them is wrong, if they were independent. `any_order` that reads the
    circuit knows the exact one, of the tokens that it has drawn in this step, and goes by it instead.
    """
    confidence = probabilities.amax(-1).masked_fill(~masked, 0.0).sort(-1, descending=True).values
    return ((confidence.cumprod(-1) >= bound) & (confidence > 0.0)).sum(-1)


COMMIT: dict[str, CommitRule] = {
    "threshold": _threshold,
    "factor": _factor,
    "entropy_bound": _entropy_bound,
    "joint": _joint,
}

INDEPENDENCE = "independence"  # tests positions by further passes of the backbone: `decoding/independence.py`


def how_many(rule: str, probabilities: Tensor, masked: Tensor, bound: float) -> Tensor:
    """What a rule commits, at least one position of each row that has one: `(B,)` long."""
    return torch.maximum(COMMIT[rule](probabilities, masked, bound), masked.any(-1).long())
