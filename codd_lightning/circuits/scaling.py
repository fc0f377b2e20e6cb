"""Numbers that may be very small: non-negative messages kept near 1, their scales in logs; zeros stay zeros."""

import torch
from torch import Tensor


def rescale(message: Tensor) -> tuple[Tensor, Tensor]:
    """Log of the sum of a `(..., N)` message, and the message divided by that sum."""
    total = message.sum(-1, keepdim=True)
    return safe_log(total).squeeze(-1), message / safe(total)


def normalize(scores: Tensor) -> tuple[Tensor, Tensor]:
    """Non-negative `(..., N)` scores divided by their largest entry, and the log of that entry.

    The divisor counts as a constant: its gradient would cancel against that of the log scale.
    """
    largest = scores.detach().amax(-1)
    return scores / safe(largest)[..., None], safe_log(largest)


def normalize_log(log_scores: Tensor) -> tuple[Tensor, Tensor]:
    """The same from the logs of the scores; minus infinity is a score of 0."""
    largest = log_scores.detach().amax(-1)
    shift = largest.masked_fill(largest == -torch.inf, 0.0)
    return (log_scores - shift[..., None]).exp(), largest


def modulate(scores: Tensor, log_potentials: Tensor) -> tuple[Tensor, Tensor]:
    """Scores times the exponential of potentials, normalised; a score of 0 stays 0."""
    return normalize_log(masked_log(scores) + log_potentials)


def masked_log(values: Tensor) -> Tensor:
    """Log of non-negative values: minus infinity at 0, with a gradient of 0 there."""
    positive = values > 0
    return torch.where(positive, values, 1.0).log().masked_fill(~positive, -torch.inf)


def safe(scale: Tensor) -> Tensor:
    """A scale to divide by: never 0 nor subnormal."""
    return scale.clamp_min(torch.finfo(scale.dtype).tiny)


def safe_log(scale: Tensor) -> Tensor:
    """Log of what `safe` divides by, so that the two cancel; minus infinity at 0."""
    return torch.where(scale > 0, safe(scale).log(), -torch.inf)


def entropy_of(distribution: Tensor) -> Tensor:
    """Entropy in nats of `(..., K)` probabilities."""
    return -torch.special.xlogy(distribution, distribution).sum(-1)


def transition_entropy(table: Tensor, message: Tensor) -> Tensor:
    """`H(z' | z)` for every state z, `(..., N)` nats, where `p(z' | z) ∝ table[z, z'] · message[z']`.

    Args:
        table: `(N, N)` probabilities.
        message: `(..., N)`.
    """
    reached = message @ table.T
    spent = message @ torch.special.xlogy(table, table).T + torch.special.xlogy(message, message) @ table.T
    return torch.where(reached > 0, safe(reached).log() - spent / safe(reached), 0.0)
