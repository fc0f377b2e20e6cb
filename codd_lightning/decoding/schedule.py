"""How many steps each block gets, and how many tokens each step commits."""

import torch
from torch import Tensor


def spread(total: int, parts: int) -> list[int]:
    """`total` as `parts` whole numbers that differ by at most one, the larger ones first."""
    share, remainder = divmod(total, parts)
    return [share + (i < remainder) for i in range(parts)]


def quotas(masked: Tensor, steps: int) -> Tensor:
    """Tokens that each step commits: `(B,)` masked tokens spread evenly over the steps, the remainder first.

    Returns:
        `(B, steps)` long.
    """
    share = masked.div(steps, rounding_mode="floor")
    remainder = masked - share * steps
    return share[:, None] + (torch.arange(steps, device=masked.device) < remainder[:, None]).long()
