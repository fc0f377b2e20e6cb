"""Two decoders on the same problems: how far apart they are, and whether that can be chance."""

import math
from collections.abc import Sequence

import torch

from codd_lightning.evaluation.intervals import bootstrap_ratio


def paired_difference(a: Sequence[bool], b: Sequence[bool], seed: int = 0) -> tuple[float, float, float]:
    """Accuracy of `a` less that of `b`, with its 95 % percentile bootstrap interval; problems are drawn whole.

    Args:
        a, b: whether each problem was right; the same problems in the same order.
        seed: of the resampling.

    Returns:
        difference, low, high.

    Raises:
        ValueError: there are no problems, or not as many of each.
    """
    _require_pairs(a, b)
    differences = torch.tensor([float(left) - float(right) for left, right in zip(a, b, strict=True)])
    low, high = bootstrap_ratio(differences, torch.ones_like(differences), seed)
    return float(differences.double().mean()), low, high


def mcnemar(a: Sequence[bool], b: Sequence[bool]) -> float:
    """Two-sided p-value of McNemar's exact test (1947): is each equally often right where only one is?

    The discordant problems are tosses of a fair coin under the null: a binomial sum, no approximation.

    Raises:
        ValueError: there are no problems, or not as many of each.
    """
    _require_pairs(a, b)
    only_a = sum(bool(left) and not right for left, right in zip(a, b, strict=True))
    only_b = sum(bool(right) and not left for left, right in zip(a, b, strict=True))
    discordant, fewer = only_a + only_b, min(only_a, only_b)
    tail = sum(math.comb(discordant, k) for k in range(fewer + 1))
    return min(1.0, 2 * tail / 2**discordant)


def _require_pairs(a: Sequence[bool], b: Sequence[bool]) -> None:
    if len(a) != len(b) or not a:
        raise ValueError(f"pairs are needed, not {len(a)} and {len(b)} problems")
