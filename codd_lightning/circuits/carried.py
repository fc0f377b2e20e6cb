"""Dataclasses of tensors with one row for each block, taken apart and moved as one."""

import dataclasses
from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor


class Carried:
    """Mixin of a frozen dataclass whose tensors, and those of what it holds, begin with the dimension of blocks."""

    def rows(self, index: Tensor) -> Self:
        """Of some rows, by a `(M,)` index or a `(B,)` mask."""
        return self._map(lambda tensor: tensor[index])

    def to(self, device: torch.device | str) -> Self:
        """On a device."""
        return self._map(lambda tensor: tensor.to(device))

    def _map(self, change: Callable[[Tensor], Tensor]) -> Self:
        def changed(value: Any) -> Any:
            if isinstance(value, Tensor):
                return change(value)
            return value._map(change) if isinstance(value, Carried) else value

        names = [field.name for field in dataclasses.fields(self)]  # type: ignore[arg-type]  # of dataclasses alone
        return type(self)(**{name: changed(getattr(self, name)) for name in names})
