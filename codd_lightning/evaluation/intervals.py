"""95 % intervals: Wilson for proportions, bootstrap for means."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

Z_95 = 1.959963984540054
RESAMPLES = 2000


def wilson(successes: float, n: int) -> tuple[float, float]:
    """Wilson score interval of a proportion (Wilson, 1927), at 95 %.

    Raises:
        ValueError: there are no samples.
    """
    if n < 1:
        raise ValueError("an interval needs at least one sample")
    share = successes / n
    centre = share + Z_95**2 / (2 * n)
    spread = Z_95 * math.sqrt(share * (1 - share) / n + Z_95**2 / (4 * n**2))
    scale = 1 + Z_95**2 / n
    low, high = (centre - spread) / scale, (centre + spread) / scale
    return max(0.0, min(low, share)), min(1.0, max(high, share))  # rounding may put an end past the share itself


def bootstrap_ratio(totals: Tensor, counts: Tensor, seed: int = 0) -> tuple[float, float]:
    """Percentile bootstrap interval of `sum(totals) / sum(counts)`, at 95 %, samples drawn whole.

    Args:
        totals: `(n,)`, such as the nats of each block.
        counts: `(n,)`, such as its tokens.
        seed: of the resampling.

    Raises:
        ValueError: there are no samples.
    """

    totals, counts = totals.cpu(), counts.cpu()  # small, and thousands of draws of them

    def ratio(drawn: Tensor) -> Tensor:
        return totals[drawn].sum() / counts[drawn].sum()

    return _bootstrap(ratio, len(totals), seed)


def bootstrap_spread(values: Tensor, seed: int = 0) -> tuple[float, float]:
    """Percentile bootstrap interval of the largest less the smallest of several means, at 95 %, columns drawn whole.

    Args:
        values: `(K, n)`: K measurements of each of n samples.
        seed: of the resampling.

    Raises:
        ValueError: there are no samples.
    """

    values = values.cpu()

    def spread(drawn: Tensor) -> Tensor:
        means = values[:, drawn].mean(1)
        return means.max() - means.min()

    return _bootstrap(spread, values.shape[1], seed)


def _bootstrap(statistic: Callable[[Tensor], Tensor], n: int, seed: int) -> tuple[float, float]:
    """Percentiles of a statistic of n samples drawn with replacement."""
    if n < 1:
        raise ValueError("an interval needs at least one sample")
    generator = torch.Generator().manual_seed(seed)
    found = torch.stack([statistic(torch.randint(n, (n,), generator=generator)) for _ in range(RESAMPLES)])
    low, high = torch.quantile(found.double(), torch.tensor([0.025, 0.975], dtype=torch.float64))
    return float(low), float(high)
