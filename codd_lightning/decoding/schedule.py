"""How many steps each block gets, and how many tokens each step commits."""

import torch
from torch import Tensor

LAST_TIME = 1e-3


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


def by_times(left: Tensor, step: int, steps: int) -> Tensor:
    """Tokens that one step commits as Dream does: the share of its time that is spent, all in the last step.

    Times fall evenly from 1 to 0.001 over the steps; of n masks left, `int(n (1 − t[i + 1] / t[i]))` are committed.

    Args:
        left: `(B,)` long, masks that are left.
        step: counted from 0.
        steps: of all.
    """
    if step == steps - 1:
        return left
    times = torch.linspace(1.0, LAST_TIME, steps + 1, device=left.device)
    return (left * (1.0 - times[step + 1] / times[step])).long()


def quota_of(schedule: str, initial: Tensor, left: Tensor, step: int, steps: int) -> Tensor:
    """`(B,)` tokens that one step commits by a schedule.

    Args:
        schedule: "even", or "times" as Dream does.
        initial: `(B,)` long, masks before the first step.
        left: `(B,)` long, masks that are left.
        step: counted from 0.
        steps: of all.
    """
    return by_times(left, step, steps) if schedule == "times" else quotas(initial, steps)[:, step]
