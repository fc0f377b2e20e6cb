"""Emission roles: groups of states that read the backbone's word differently (paper, appendix E.2)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from codd_lightning.circuits.carried import Carried


@dataclass(frozen=True)
class Roles(Carried):
    """Soft evidence of its own for each of R groups of states; state n of N belongs to group `n // (N / R)`.

    Attributes:
        weights: `(B, L, R, V)`, or `(B, L, R, K)` over the tokens kept of truncated evidence; read at soft positions.
        tail: `(B, L, R)`, weight of each token left out; None if dense, or if they weigh 0.
        log_gain: `(B, L, R)` nats, of the known token: its weight under each role over its weight in the evidence;
            0 where the token was known from the start.
    """

    weights: Tensor
    tail: Tensor | None
    log_gain: Tensor

    @property
    def count(self) -> int:
        """R."""
        return self.weights.shape[2]

    def weight_of(
        self, tokens: Tensor, token_ids: Tensor | None, at: tuple[Tensor, Tensor] | slice = slice(None)
    ) -> Tensor:
        """The weight of tokens under each role, where positions are soft.

        Args:
            tokens: `(B, L)` long, or `(M,)` with `at`; evidence of one row serves any number of rows.
            token_ids: of the evidence, `(B, L, K)`.
            at: rows and positions, `(M,)` each; all if it is left out.

        Returns:
            `(B, L, R)` or `(M, R)`.
        """
        weights = self.weights[at]
        if token_ids is None:
            weights = weights.expand(*tokens.shape, -1, -1)
            index = tokens[..., None, None].expand(*weights.shape[:-1], 1)
            return weights.gather(-1, index).squeeze(-1)
        hits = token_ids[at] == tokens[..., None]  # (..., K)
        found = (weights * hits[..., None, :]).sum(-1)
        rest = found.new_zeros(()) if self.tail is None else self.tail[at]
        return torch.where(hits.any(-1, keepdim=True), found, rest.expand_as(found))


def of_states(values: Tensor, num_states: int) -> Tensor:
    """`(..., N)` of `(..., R)`: what a role has, for each of its states."""
    return values.repeat_interleave(num_states // values.shape[-1], -1)
