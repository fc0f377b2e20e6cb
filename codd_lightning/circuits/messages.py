"""Message passing along a chain, in scaled linear space."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


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
        return _step(self.transition, position)


def rescale(message: Tensor) -> tuple[Tensor, Tensor]:
    """Log of the sum of a `(B, N)` message, and the message divided by that sum (zeros stay zeros)."""
    total = message.sum(-1, keepdim=True)
    return _safe_log(total).squeeze(-1), message / _safe(total)


def normalize(scores: Tensor) -> tuple[Tensor, Tensor]:
    """Non-negative `(..., N)` scores divided by their largest entry, and the log of that entry.

    The divisor counts as a constant: its gradient would cancel against that of the log scale.
    """
    largest = scores.detach().amax(-1)
    return scores / _safe(largest)[..., None], _safe_log(largest)


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
    log_norm: Tensor = _LogNormalizer.apply(chain.initial, chain.transition, chain.scores)
    return log_norm + chain.log_scales.sum(-1)


class _LogNormalizer(torch.autograd.Function):
    """The forward recursion, differentiated by the backward one.

    With messages `a_i = (a_{i-1} A) ∘ s_i / c_i` and `b_{i-1} = A (s_i ∘ b_i) / c_i`, the gradient of
    `Σ log c_i` is the expected use of each parameter: `∂/∂s_i = (a_{i-1} A) ∘ b_i / c_i` and
    `∂/∂A = Σ_i a_{i-1} (s_i ∘ b_i / c_i)ᵀ`. One message per position is kept, never `(B, L, N, N)`.
    """

    @staticmethod
    def forward(ctx: Any, initial: Tensor, transition: Tensor, scores: Tensor) -> Tensor:
        by_position = scores.transpose(0, 1).contiguous()  # (L, B, N)
        incoming = torch.empty_like(by_position)  # a_{i-1} A; the initial distribution first
        scales = by_position.new_empty(by_position.shape[:2])  # (L, B): c_i
        incoming[0] = initial
        message = torch.empty_like(by_position[0])  # a_i
        for position in range(len(by_position)):
            if position:
                torch.mm(message, _step(transition, position - 1), out=incoming[position])
            torch.mul(incoming[position], by_position[position], out=message)
            torch.sum(message, -1, out=scales[position])
            message /= _safe(scales[position])[:, None]
        ctx.save_for_backward(transition, by_position, incoming, scales)
        return _safe_log(scales).sum(0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        transition, scores, incoming, scales = ctx.saved_tensors
        dead = (scales == 0).any(0)  # an impossible row has no direction to improve in
        grad = grad.masked_fill(dead, 0.0)
        inverse = _safe(scales).reciprocal().masked_fill(dead, 0.0)[..., None]  # (L, B, 1)
        outgoing = torch.empty_like(scores)  # s_i ∘ b_i / c_i
        grad_scores = torch.empty_like(scores)
        backward = torch.ones_like(scores[0])
        for position in reversed(range(len(scores))):
            torch.mul(backward, inverse[position], out=backward)
            torch.mul(incoming[position], backward, out=grad_scores[position])
            torch.mul(scores[position], backward, out=outgoing[position])
            if position:
                torch.mm(outgoing[position], _step(transition, position - 1).T, out=backward)
        grad_scores *= grad[:, None]
        outgoing *= grad[:, None]
        messages = incoming * scores * inverse  # a_i
        if len(transition) == 1:
            pairs = messages[:-1].flatten(0, 1).T @ outgoing[1:].flatten(0, 1)
            grad_transition = pairs[None]
        else:
            grad_transition = torch.zeros_like(transition)
            grad_transition[: len(scores) - 1] = messages[:-1].transpose(1, 2) @ outgoing[1:]
        return outgoing[0].sum(0), grad_transition, grad_scores.transpose(0, 1)


def _step(transition: Tensor, position: int) -> Tensor:
    return transition[0 if len(transition) == 1 else position]


def _safe(scale: Tensor) -> Tensor:
    """A scale to divide by: never 0 nor subnormal."""
    return scale.clamp_min(torch.finfo(scale.dtype).tiny)


def _safe_log(scale: Tensor) -> Tensor:
    """Log of what `_safe` divides by, so that the two cancel; minus infinity at 0."""
    return torch.where(scale > 0, _safe(scale).log(), -torch.inf)
