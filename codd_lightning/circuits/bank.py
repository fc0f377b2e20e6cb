"""Transitions that are one of several tables, each position's own mixture of them (paper, appendix E)."""

from functools import cached_property

import torch
from torch import Tensor

from codd_lightning.circuits.tables import Tables
from codd_lightning.circuits.transitions import Transitions


class BankTransitions(Transitions):
    """A bank of K tables, of which the latent state says by which it is left: (z, k) goes to (z', k') by `A_k(z, z')`.

    With potentials `log w_i(k)` whose `w_i` sum to 1 the chain is one of N states whose transition out of position i
    is the mixture `Σ_k w_i(k) A_k`: normalised, and no larger to store than the bank. Messages are `(B, N · K)`, the K
    of a state side by side; a product costs K of `(B, N)` by a table. Sampling states makes the dense table.

    Args:
        table: `(K, N, N)`.
    """

    def __init__(self, table: Tensor) -> None:
        super().__init__(table)
        self._each = [Transitions(part[None]) for part in table]

    @property
    def shared(self) -> bool:
        return True

    def step(self, position: int) -> Tensor:
        return self._dense

    def forward(self, messages: Tensor, position: int) -> Tensor:
        parts = self._parts(messages)
        found = self._each[0].forward(parts[0], position)
        for each, part in zip(self._each[1:], parts[1:], strict=True):
            found = found + each.forward(part, position)
        return found.repeat_interleave(len(self._each), -1)

    def backward(self, messages: Tensor, position: int) -> Tensor:
        arrived = self._parts(messages).sum(0)
        return torch.stack([each.backward(arrived, position) for each in self._each], -1).flatten(1)

    def add_gradient(self, total: Tensor, messages: Tensor, outgoing: Tensor, steps: slice) -> None:
        left = self._parts(messages).flatten(1, -2)  # (K, steps · B, N)
        arrived = self._parts(outgoing).sum(0).flatten(0, -2)
        total.baddbmm_(left.transpose(1, 2), arrived.expand(len(left), -1, -1))

    def _parts(self, messages: Tensor) -> Tensor:
        """`(K, ..., N)` of `(..., N · K)`."""
        return messages.unflatten(-1, (-1, len(self._each))).movedim(-1, 0).contiguous()

    @cached_property
    def _dense(self) -> Tensor:
        """`(N · K, N · K)`"""
        count = len(self._each)
        return self.table.transpose(0, 1).flatten(0, 1).repeat_interleave(count, -1)


def banked(tables: Tables, bank: Tensor) -> Tables:
    """Tables of the states (z, k): as those of their z; the bank stands in place of the transition.

    Args:
        tables: of N states.
        bank: `(K, N, N)`.
    """
    count = len(bank)
    return Tables(
        latent={"initial": tables.latent["initial"].repeat_interleave(count, -1), "bank": bank},
        emission=tables.emission.repeat_interleave(count, -1),
        emission_logits=tables.emission_logits.repeat_interleave(count, -1),
        log_normalizer=tables.log_normalizer.repeat_interleave(count, -1),
    )
