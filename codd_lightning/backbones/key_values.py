"""Keys and values of some columns of a canvas, kept between passes."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import Cache, DynamicCache


@dataclass(frozen=True)
class KeyValues:
    """What a transformer's layers computed at some columns, positions included.

    Attributes:
        layers: keys and values of each layer, `(B, H, C, D)`.
        columns: `(T,)` bool, the C columns of the canvas that are kept.
    """

    layers: list[tuple[Tensor, Tensor]]
    columns: Tensor

    @classmethod
    def of(cls, cache: Cache, columns: Tensor) -> "KeyValues":
        """Those of some columns, `(T,)` bool, of a pass over all."""
        layers: list[Any] = list(cache.layers)  # each with keys and values
        return cls([(layer.keys[:, :, columns], layer.values[:, :, columns]) for layer in layers], columns)

    def narrow(self, width: int) -> "KeyValues":
        """The same for a canvas that ends where the kept columns do."""
        return KeyValues(self.layers, self.columns[:width])

    def rows(self, index: Tensor) -> "KeyValues":
        """Those of some rows, by `(M,)` index."""
        return KeyValues([(keys[index], values[index]) for keys, values in self.layers], self.columns)

    def cache(self) -> DynamicCache:
        """As transformers takes them: further keys and values are appended to a copy."""
        cache = DynamicCache()
        for number, (keys, values) in enumerate(self.layers):
            cache.update(keys, values, number)
        return cache

    def visible(self, attention_mask: Tensor | None) -> Tensor | None:
        """`(B, C + A)`: what the A other columns attend to, kept ones first; None where all to all."""
        if attention_mask is None:
            return None
        return torch.cat([attention_mask[:, self.columns], attention_mask[:, ~self.columns]], 1)
