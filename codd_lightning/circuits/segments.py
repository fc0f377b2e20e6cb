"""Transitions that count: copies of one chain, of which some states lead into the next copy."""

from functools import cached_property

import torch
from torch import Tensor

from codd_lightning.circuits.transitions import Transitions


class SegmentTransitions(Transitions):
    """One table for C copies of M states; from the last `stops` states of a copy it leads into the next copy.

    The last copy leads into itself. Messages are `(B, C · M)`; a product costs one of `(B · C, M)` by the table.

    Args:
        table: `(1, M, M)`.
        copies: C.
        stops: how many of the M states lead on.
    """

    def __init__(self, table: Tensor, copies: int, stops: int) -> None:
        super().__init__(table)
        self._copies = copies
        self._first_stop = table.shape[-1] - stops

    def step(self, position: int) -> Tensor:
        return self._dense

    def forward(self, messages: Tensor, position: int) -> Tensor:
        return super().forward(self._moved(messages).flatten(0, 1), position).view_as(messages)

    def backward(self, messages: Tensor, position: int) -> Tensor:
        found = super().backward(messages.reshape(-1, self.table.shape[-1]), position)
        found = found.view(len(messages), self._copies, -1)
        found[:, :-1, self._first_stop :] = found[:, 1:, self._first_stop :].clone()
        return found.flatten(1)

    def add_gradient(self, total: Tensor, messages: Tensor, outgoing: Tensor, steps: slice) -> None:
        moved = self._moved(messages).flatten(1, 2)  # (steps, B · C, M)
        super().add_gradient(total, moved, outgoing.reshape(moved.shape), steps)

    def _moved(self, messages: Tensor) -> Tensor:
        """`(..., C, M)` of `(..., C · M)`: what stands at a stop counts for the next copy."""
        moved = messages.unflatten(-1, (self._copies, -1)).clone()
        stops = moved[..., self._first_stop :].clone()
        moved[..., 0, self._first_stop :] = 0.0
        moved[..., 1:, self._first_stop :] = stops[..., :-1, :]
        moved[..., -1, self._first_stop :] += stops[..., -1, :]
        return moved

    @cached_property
    def _dense(self) -> Tensor:
        """`(C · M, C · M)`"""
        everywhere = torch.eye(self._copies * self.table.shape[-1], dtype=self.table.dtype, device=self.table.device)
        return (self._moved(everywhere) @ self.table[0]).flatten(1)
