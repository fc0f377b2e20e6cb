"""Products of messages with the transitions of a chain, by the fastest kernel that torch has for them."""

from functools import cached_property

import torch
from torch import Tensor

from codd_lightning.circuits.scaling import masked_log

# Below this many states a product is done before oneDNN has been asked for it.
STATES_WORTH_PACKING = 256


class Transitions:
    """Transitions of a chain, each used for many messages.

    On a CPU, oneDNN multiplies by a matrix that it has packed once: up to four times as fast as `torch.mm`, which
    asks MKL, where MKL does not favour the processor (AMD's), and never slower from 256 states on. Everywhere
    else, in other types than float32, and where each step has a matrix of its own, it is `torch.mm`.

    Args:
        table: `(1, N, N)` shared by all steps, or `(steps, N, N)`.
    """

    def __init__(self, table: Tensor) -> None:
        self.table = table

    @property
    def shared(self) -> bool:
        """Whether all steps use one matrix."""
        return len(self.table) == 1

    def step(self, position: int) -> Tensor:
        """`(N, N)`: transition from `position` to the next."""
        return self._matrix(position)

    def forward(self, messages: Tensor, position: int) -> Tensor:
        """`messages @ A`, `(B, N)`, where A leads from `position` to the next."""
        if self._packs:
            return _multiply(messages, self._packed)
        return torch.mm(messages, self._matrix(position))

    def backward(self, messages: Tensor, position: int) -> Tensor:
        """`messages @ Aᵀ`, `(B, N)`, where A leads from `position` to the next."""
        if self._packs:
            return _multiply(messages, self._packed_transpose)
        return torch.mm(messages, self._matrix(position).T)

    def add_gradient(self, total: Tensor, messages: Tensor, outgoing: Tensor, steps: slice) -> None:
        """Adds the gradient of the table, `Σ_b messagesᵀ outgoing` at each of some steps, to one like the table.

        Args:
            total: `(1, N, N)` or `(all steps, N, N)`.
            messages: `(steps, B, N)`, before a transition.
            outgoing: `(steps, B, N)`, after it.
            steps: which.
        """
        if self.shared:
            total[0].addmm_(messages.flatten(0, 1).T, outgoing.flatten(0, 1))
        else:
            torch.bmm(messages.transpose(1, 2), outgoing, out=total[steps])

    def incoming(self, position: int) -> Tensor:
        """`(N, N)`: `A[z, z']` at `[z', z]`, so that what leads into one state lies together."""
        return self._incoming if self.shared else self.step(position).T

    def log_incoming(self, position: int) -> Tensor:
        """`(N, N)`: the log of `incoming`."""
        return self._log_incoming if self.shared else masked_log(self.incoming(position)).contiguous()

    def _matrix(self, position: int) -> Tensor:
        return self.table[0 if self.shared else position]

    @cached_property
    def _incoming(self) -> Tensor:
        return self.step(0).T.contiguous()

    @cached_property
    def _log_incoming(self) -> Tensor:
        return masked_log(self._incoming)

    @cached_property
    def _packs(self) -> bool:
        return (
            self.shared
            and self.table.device.type == "cpu"
            and self.table.dtype == torch.float32
            and self.table.shape[-1] >= STATES_WORTH_PACKING
            and torch.backends.mkldnn.is_available()
        )

    @cached_property
    def _packed(self) -> Tensor:
        return _pack(self.table[0].T.contiguous())

    @cached_property
    def _packed_transpose(self) -> Tensor:
        return _pack(self.table[0].contiguous())


@torch.no_grad()
def _pack(matrix: Tensor) -> Tensor:
    """A matrix W in oneDNN's own order, for `messages @ Wᵀ`."""
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(matrix.detach())
    return packed


@torch.no_grad()
def _multiply(messages: Tensor, packed: Tensor) -> Tensor:
    product: Tensor = torch.ops.mkldnn._linear_pointwise(messages, packed, None, "none", [], "")
    return product
