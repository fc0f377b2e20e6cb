"""Message passing along a chain, in scaled linear space."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Chain:
    """A chain of latent states with a score for each state at each position.

    Attributes:
        initial: `(N,)`.
        transition: `(1, N, N)` shared by all steps, or `(steps, N, N)`.
        scores: `(B, L, N)`, at most 1; the true scores divided by `exp(log_scales)`.
        log_scales: `(B, L)`; minus infinity where no state has a score.
    """

    initial: Tensor
    transition: Tensor
    scores: Tensor
    log_scales: Tensor

    @property
    def length(self) -> int:
        return self.scores.shape[1]

    def step(self, position: int) -> Tensor:
        """`(N, N)`: transition from `position` to the next."""
        return self.transition[0 if len(self.transition) == 1 else position]


def rescale(message: Tensor) -> tuple[Tensor, Tensor]:
    """Log of the sum of a `(B, N)` message, and the message divided by that sum (zeros stay zeros)."""
    total = message.sum(-1, keepdim=True)
    return total.squeeze(-1).log(), message / total.clamp_min(torch.finfo(message.dtype).tiny)


def normalize(scores: Tensor) -> tuple[Tensor, Tensor]:
    """Non-negative `(..., N)` scores divided by their largest entry, and the log of that entry.

    The divisor counts as a constant: its gradient would cancel against that of the log scale.
    """
    largest = scores.detach().amax(-1)
    return scores / largest.clamp_min(torch.finfo(scores.dtype).tiny)[..., None], largest.log()


def normalize_log(log_scores: Tensor) -> tuple[Tensor, Tensor]:
    """The same from the logs of the scores; minus infinity is a score of 0."""
    largest = log_scores.detach().amax(-1)
    shift = largest.masked_fill(largest == -torch.inf, 0.0)
    return (log_scores - shift[..., None]).exp(), largest


def modulate(scores: Tensor, log_potentials: Tensor) -> tuple[Tensor, Tensor]:
    """Scores times the exponential of potentials, normalised; a score of 0 stays 0."""
    possible = scores > 0
    log_scores = torch.where(possible, scores, 1.0).log() + log_potentials
    return normalize_log(log_scores.masked_fill(~possible, -torch.inf))


def log_normalizer(chain: Chain) -> Tensor:
    """`(B,)` nats: log of the sum over all paths of initial × transitions × scores."""
    scores = chain.scores.unbind(1)
    log_norm, message = rescale(chain.initial * scores[0])
    logs = [log_norm]
    for position in range(1, chain.length):
        log_norm, message = rescale((message @ chain.step(position - 1)) * scores[position])
        logs.append(log_norm)
    return torch.stack(logs, -1).sum(-1) + chain.log_scales.sum(-1)
