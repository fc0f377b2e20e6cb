"""Message passing along a chain, in scaled linear space."""

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from codd_lightning.circuits.categorical import draw
from codd_lightning.circuits.messages import Messages
from codd_lightning.circuits.scaling import entropy_of, masked_log, rescale, safe, safe_log, transition_entropy
from codd_lightning.circuits.transitions import Transitions

POSITIONS_AT_ONCE = 8  # of the backward recursion, whose uses of a transition are summed together
MAX_PRODUCT_CHUNK = 2**22  # elements of (rows, N, N) that one step of max-product holds


@dataclass(frozen=True)
class Chain:
    """A chain of latent states with a score for each state at each position.

    Attributes:
        initial: `(N,)`.
        transitions: between neighbours.
        scores: `(B, L, N)`, at most 1.
    """

    initial: Tensor
    transitions: Transitions
    scores: Tensor

    @property
    def length(self) -> int:
        return self.scores.shape[1]


def log_normalizer(chain: Chain) -> Tensor:
    """`(B,)` nats: log of the sum over all paths of initial × transitions × scores."""
    with torch.autocast(chain.scores.device.type, enabled=False):  # sums over states need float32
        result: Tensor = _LogNormalizer.apply(chain.initial, chain.transitions.table, chain.scores, chain.transitions)
    return result


class _LogNormalizer(torch.autograd.Function):
    """The forward recursion, differentiated by the backward one.

    With messages `a_i = (a_{i-1} A) ∘ s_i / c_i` and `b_{i-1} = A (s_i ∘ b_i) / c_i`, the gradient of
    `Σ log c_i` is the expected use of each parameter: `∂/∂s_i = (a_{i-1} A) ∘ b_i / c_i` and
    `∂/∂A = Σ_i a_{i-1} (s_i ∘ b_i / c_i)ᵀ`. One message per position is kept, never `(B, L, N, N)`.
    """

    @staticmethod
    def forward(ctx: Any, initial: Tensor, table: Tensor, scores: Tensor, transitions: Transitions) -> Tensor:
        batch_size, length, num_states = scores.shape
        incoming = scores.new_empty(length, batch_size, num_states)  # a_{i-1} A; the initial distribution first
        scales = scores.new_empty(length, batch_size)  # c_i
        incoming[0] = initial
        message = torch.empty_like(incoming[0])  # a_i
        for position in range(length):
            if position:
                incoming[position] = transitions.forward(message, position - 1)
            torch.mul(incoming[position], scores[:, position], out=message)
            torch.sum(message, -1, out=scales[position])
            message /= safe(scales[position])[:, None]
        ctx.save_for_backward(scores, incoming, scales)
        ctx.transitions = transitions
        ctx.some_unreachable = bool((initial == 0).any())
        return safe_log(scales).sum(0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        scores, incoming, scales = ctx.saved_tensors
        transitions: Transitions = ctx.transitions
        length = scores.shape[1]
        dead = (scales == 0).any(0)  # an impossible row has no direction to improve in
        grad = grad.masked_fill(dead, 0.0)[:, None]
        inverse = safe(scales).reciprocal().masked_fill(dead, 0.0)[..., None]  # (L, B, 1)
        grad_transition = torch.zeros_like(transitions.table)
        grad_scores = torch.empty_like(scores)
        outgoing = torch.empty_like(incoming[:POSITIONS_AT_ONCE])  # s_i ∘ b_i / c_i
        backward = torch.ones_like(incoming[0])
        for end in range(length, 0, -POSITIONS_AT_ONCE):
            start = max(end - POSITIONS_AT_ONCE, 0)
            for position in reversed(range(start, end)):
                backward *= inverse[position]
                if ctx.some_unreachable:  # where nothing arrives, what follows counts for nothing, and may overflow
                    backward.masked_fill_(incoming[position] == 0, 0.0)
                torch.mul(incoming[position], backward, out=grad_scores[:, position])
                torch.mul(scores[:, position], backward, out=outgoing[position - start])
                if position:
                    backward = transitions.backward(outgoing[position - start], position - 1)
            outgoing *= grad
            first = max(start, 1)
            before = slice(first - 1, end - 1)
            messages = incoming[before] * scores[:, before].transpose(0, 1)  # a_{i-1}
            messages *= inverse[before]
            here = outgoing[first - start : end - start]
            transitions.add_gradient(grad_transition, messages, here, before)
        grad_scores *= grad[:, None]
        return outgoing[0].sum(0), grad_transition, grad_scores, None


class ChainMessages(Messages):
    """Messages along a chain, computed lazily and kept while scores change.

    The message that *reaches* a position from the left (what the earlier positions say of its state)
    and from the right do not depend on the position's own score, so that a change at position i
    leaves all left messages up to i and all right messages from i on as they were. Messages are
    filled in when a query asks for them: committing tokens from left to right costs one step each.
    """

    def __init__(self, chain: Chain) -> None:
        self._chain = chain
        self._scores = chain.scores
        self._left = torch.ones_like(self._scores)
        self._right = torch.empty_like(self._scores)
        self._left[:, 0] = chain.initial
        self._right[:, -1] = 1.0
        self._left_known, self._right_known = 1, chain.length - 1  # left[:known] and right[known:] hold
        self._some_unreachable = bool((chain.initial == 0).any())
        self.num_draws = chain.length

    def outside(self, positions: Tensor | None = None) -> Tensor:
        self._fill_left(self._chain.length if positions is None else int(positions.max()) + 1)
        self._fill_right(0 if positions is None else int(positions.min()))
        if positions is None:
            return self._left * self._right
        rows = torch.arange(len(positions), device=positions.device)
        return self._left[rows, positions] * self._right[rows, positions]

    def after(self, latents: Tensor) -> Tensor:
        """`(B, L, N)`: weights of each position's states, given `(B, L)` latents before it and all scores after it."""
        self._fill_right(0)
        states = self._right.clone()
        states[:, 0] *= self._chain.initial
        for position in range(1, self._chain.length):
            states[:, position] *= self._chain.transitions.step(position - 1)[latents[:, position - 1]]
        return states

    def change(self, rows: Tensor, positions: Tensor, scores: Tensor) -> None:
        self._scores[rows, positions] = scores
        self._left_known = min(self._left_known, int(positions.min()) + 1)
        self._right_known = max(self._right_known, int(positions.max()))

    def sample(self, uniforms: Tensor) -> Tensor:
        self._fill_left(self._chain.length)
        latents = torch.empty_like(uniforms, dtype=torch.long)
        successor = torch.ones_like(self._scores[:, 0])  # P(z_{i+1} drawn | z_i)
        for position in reversed(range(self._chain.length)):
            weights = self._left[:, position] * self._scores[:, position] * successor
            latents[:, position] = draw(weights, uniforms[:, position])
            if position:
                successor = self._chain.transitions.incoming(position - 1)[latents[:, position]]
        return latents

    def mode(self, log_scores: Tensor) -> tuple[Tensor, Tensor]:
        """Viterbi's algorithm."""
        best = masked_log(self._chain.initial) + log_scores[:, 0]  # (B, N)
        came_from = torch.empty_like(log_scores, dtype=torch.long)
        for position in range(1, self._chain.length):
            log_incoming = self._chain.transitions.log_incoming(position - 1)
            reached, came_from[:, position] = _max_product(best, log_incoming)
            best = reached + log_scores[:, position]
        log_mass, state = best.max(-1)
        latents = torch.empty_like(came_from[..., 0])
        for position in reversed(range(self._chain.length)):
            latents[:, position] = state
            state = came_from[:, position].gather(-1, state[:, None]).squeeze(-1) if position else state
        return latents, log_mass

    def entropy(self) -> Tensor:
        states = rescale(self.outside() * self._scores)[1]
        total = entropy_of(states[:, 0])
        for position in range(1, self._chain.length):
            message = self._scores[:, position] * self._right[:, position]
            forward = transition_entropy(self._chain.transitions.step(position - 1), rescale(message)[1])
            total = total + (states[:, position - 1] * forward).sum(-1)
        return total

    def rows(self, index: Tensor) -> "ChainMessages":
        chosen = copy.copy(self)
        chosen._left, chosen._right = self._left[index], self._right[index]
        chosen._scores = self._scores[index]
        return chosen

    def _fill_left(self, until: int) -> None:
        for i in range(self._left_known, until):
            said = self._left[:, i - 1] * self._scores[:, i - 1]
            torch.mul(*_scaled(self._chain.transitions.forward(said, i - 1)), out=self._left[:, i])
        self._left_known = max(self._left_known, until)

    def _fill_right(self, since: int) -> None:
        for i in reversed(range(since, self._right_known)):
            said = self._right[:, i + 1] * self._scores[:, i + 1]
            message = self._chain.transitions.backward(said, i)
            if self._some_unreachable:  # states that nothing leads to must not decide the scale; what left said once
                message = message.masked_fill(self._left[:, i] == 0, 0.0)  # is enough: knowing more opens no way
            torch.mul(*_scaled(message), out=self._right[:, i])
        self._right_known = min(self._right_known, since)


def _scaled(message: Tensor) -> tuple[Tensor, Tensor]:
    """A message and what it must be multiplied by to sum to 1."""
    return message, safe(message.sum(-1, keepdim=True)).reciprocal()


def _max_product(best: Tensor, log_incoming: Tensor) -> tuple[Tensor, Tensor]:
    """`max_z best[z] + log A[z, z']` and the z that reaches it, `(B, N)` each, by `log A[z, z']` at `[z', z]`."""
    parts = best.split(max(MAX_PRODUCT_CHUNK // log_incoming.numel(), 1))
    found = [(part[:, None, :] + log_incoming).max(-1) for part in parts]
    return torch.cat([values for values, _ in found]), torch.cat([states for _, states in found])
