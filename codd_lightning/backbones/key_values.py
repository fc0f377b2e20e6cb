"""Keys and values of some columns of a canvas, kept between passes."""

from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor
from transformers import Cache, DynamicCache
from transformers.modeling_outputs import BaseModelOutputWithPast

# How models call their cache, in what they take and return: transformers 5.24 renamed it, and 5.40 drops the old name.
CACHE = "cache" if "cache" in {field.name for field in fields(BaseModelOutputWithPast)} else "past_key_values"


def caching(cache: Cache | None) -> dict[str, Any]:
    """What a model is called with to read and fill a cache; None: to keep none."""
    return {"use_cache": cache is not None, CACHE: cache}


def cache_of(output: Any) -> Cache:
    """The cache that a model returned."""
    cache: Cache = getattr(output, CACHE)
    return cache


@dataclass(frozen=True)
class KeyValues:
    """What a transformer's layers computed at some columns, positions included.

    Attributes:
        layers: keys and values of each layer, `(B, H, C, D)`.
        columns: `(T,)` bool, the C columns of the canvas that are kept.
        states: `(B, C, D)`, the last hidden states there.
    """

    layers: list[tuple[Tensor, Tensor]]
    columns: Tensor
    states: Tensor

    @classmethod
    def of(cls, cache: Cache, columns: Tensor, states: Tensor) -> "KeyValues":
        """Those of some columns, `(T,)` bool, of a pass over all, with its `(B, T, D)` last hidden states."""
        layers: list[Any] = list(cache.layers)  # each with keys and values
        kept = [(layer.keys[:, :, columns], layer.values[:, :, columns]) for layer in layers]
        return cls(kept, columns, states[:, columns])

    def narrow(self, width: int) -> "KeyValues":
        """The same for a canvas that ends where the kept columns do."""
        return KeyValues(self.layers, self.columns[:width], self.states)

    def rows(self, index: Tensor) -> "KeyValues":
        """Those of some rows, by `(M,)` index."""
        return KeyValues(
            [(keys[index], values[index]) for keys, values in self.layers], self.columns, self.states[index]
        )

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
