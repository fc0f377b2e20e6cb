"""Backbones whose blocks see themselves and those before (block diffusion, Arriola et al., 2025): exact to cache."""

from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from codd_lightning.backbones.backbone import Backbone, Prediction, position_ids, select_positions
from codd_lightning.backbones.key_values import KeyValues, cache_of, caching
from codd_lightning.errors import UserError


class BlockCausalBackbone(Backbone):
    """A transformer in which a token sees its own block and all blocks before it.

    Blocks count from the first token of the response, forwards over it and backwards over the prompt, whose first block
    may be short. What comes later changes nothing, so keys and values of finished blocks stay right.

    Attributes:
        block_length: tokens of a block.
    """

    def __init__(self, *args: Any, block_length: int, **options: Any) -> None:
        super().__init__(*args, **options)
        self.block_length = block_length

    def predict(
        self,
        canvas: Tensor,
        positions: Tensor | None = None,
        cache: KeyValues | None = None,
        attention_mask: Tensor | None = None,
        keep: Tensor | None = None,
        response_start: int | None = None,
    ) -> Prediction:
        """As `Backbone.predict`; a cache may be extended, by `keep` beside it.

        Args:
            canvas: `(B, T)` long token ids; nothing after the block asked about is needed.
            positions: `(P,)` long columns of all rows, or `(B, P)`; all that are not cached if None.
            cache: keys and values of the first columns.
            attention_mask: `(B, T)`, 0 where padded.
            keep: `(T,)` bool, columns whose keys and values to return, those of the cache among them.
            response_start: column of the response's first token; 0 if None.

        Raises:
            UserError: a position, or what its logits come from, lies within the cache.
        """
        width, device = canvas.shape[1], canvas.device
        cached = 0 if cache is None else len(cache.columns)
        source = torch.arange(cached, width, device=device) if positions is None else positions
        source = source - self.lookback
        if cached and bool((source < cached).any()):
            raise UserError("predict was asked for a position that its cache holds already")
        every = torch.ones_like(canvas) if attention_mask is None else attention_mask.to(torch.long)
        first = every.argmax(-1, keepdim=True)
        past = cache.cache() if cache is not None else DynamicCache() if keep is not None else None
        output = self.model.base_model(
            input_ids=canvas[:, cached:],
            attention_mask=self._visible(every.bool(), response_start or 0)[:, None, cached:],
            position_ids=position_ids(every)[:, cached:],
            **caching(past),
        )
        source = torch.maximum(source.expand(len(canvas), -1), first) - cached  # the first token has none before it
        states: Tensor = output.last_hidden_state
        hidden = select_positions(states, source)
        if cache is not None:
            states = torch.cat([cache.states, states], 1)
        kept = cache if keep is None else KeyValues.of(cache_of(output), keep, states).narrow(int(keep.sum()))
        return Prediction(self._logits(hidden), hidden, kept, states)

    def _visible(self, real: Tensor, response_start: int) -> Tensor:
        """`(B, T, T)` bool: what each column attends to; padding attends to itself, and nothing else to it."""
        assert self.block_length is not None, "given to the constructor"
        columns = torch.arange(real.shape[1], device=real.device)
        block = (columns - response_start).div(self.block_length, rounding_mode="floor")
        before = block[None, :] <= block[:, None]
        itself = columns[None, :] == columns[:, None]
        return (before & real[:, None, :]) | itself
