"""One interface for every masked-diffusion transformer: token ids in, aligned logits out."""

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from codd_lightning.backbones.key_values import KeyValues, cache_of, caching
from codd_lightning.backbones.stored import StoredTensor
from codd_lightning.errors import UserError


@dataclass(frozen=True)
class Prediction:
    """What a backbone says of some positions of a canvas.

    Attributes:
        logits: `(B, P, V)`; row i predicts the token at position i.
        hidden: `(B, P, D)`, the last hidden states those logits come from; None where there are none.
        cache: keys and values of the columns that were to be kept; None where none were.
        states: `(B, T, D)`, last hidden states of all columns, unaligned: those of column i come from token i; None
            where there are none.
    """

    logits: Tensor
    hidden: Tensor | None = None
    cache: KeyValues | None = None
    states: Tensor | None = None


@runtime_checkable
class BackboneLike(Protocol):
    """What trainer and decoder need of a backbone besides `forward(input_ids, attention_mask)`."""

    mask_token_id: int
    vocab_size: int
    tokenizer: Any
    eos_token_ids: list[int]

    def __call__(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor: ...


class Backbone(nn.Module):
    """A bidirectional transformer of transformers, with its oddities hidden.

    Attributes:
        remembers: whether `predict` can keep keys and values.
        lookback: columns before a position that its logits come from.

    Args:
        model: a causal-LM class run with `config.is_causal = False`.
        mask_token_id: id of the mask token.
        eos_token_ids: ids that end a response.
        tokenizer: may be None.
        shifted: the model's row i predicts token i + 1 (Dream); aligned here.
        head: name of the model's module between hidden states and output embeddings; None where there is none.
    """

    remembers = True
    block_length: int | None = None  # of block-causal attention

    def __init__(
        self,
        model: PreTrainedModel,
        mask_token_id: int,
        eos_token_ids: list[int],
        tokenizer: PreTrainedTokenizerBase | None = None,
        shifted: bool = False,
        head: str | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.head = head
        self.remembers = head is None
        self.mask_token_id = mask_token_id
        self.eos_token_ids = list(eos_token_ids)
        self.tokenizer = tokenizer
        self.shifted = shifted
        self.lookback = int(shifted)
        self.original_config: dict[str, Any] | None = None  # config.json of the format it came in
        self.stored: dict[str, StoredTensor] | None = None  # where the model's weights lie, until it has them
        self.vocab_size = int(
            model.get_output_embeddings().weight.shape[0]
        )  # rows of the head: may pass config.vocab_size

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Aligned logits `(B, T, V)`.

        Args:
            input_ids: `(B, T)` long.
            attention_mask: `(B, T)`, 0 where padded, on either side; logits there mean nothing.
        """
        return self.predict(input_ids, attention_mask=attention_mask).logits

    def predict(
        self,
        canvas: Tensor,
        positions: Tensor | None = None,
        cache: KeyValues | None = None,
        attention_mask: Tensor | None = None,
        keep: Tensor | None = None,
        response_start: int | None = None,
    ) -> Prediction:
        """Logits and hidden states at some positions of a canvas, the head applied to those alone.

        Args:
            canvas: `(B, T)` long token ids.
            positions: `(P,)` long columns of all rows, or `(B, P)`; all if None.
            cache: what an earlier call returned for the same rows: its columns are not computed again, though
                the tokens that they attend to may have changed since. Positions lie outside it, by `lookback`.
            attention_mask: `(B, T)`, 0 where padded.
            keep: `(T,)` bool, columns whose keys and values to return.
            response_start: column of the response's first token; says nothing to a bidirectional backbone.

        Raises:
            UserError: a position, or what its logits come from, lies within the cache.
        """
        if cache is not None and positions is not None:
            return self._predict_with(cache, canvas, positions, attention_mask)
        if cache is not None:
            raise UserError("with a cache, predict needs the positions to answer for")
        states, kept = self._encode(canvas, attention_mask, keep)
        hidden = states
        if positions is not None:
            source = (positions - 1).clamp_min(0) if self.shifted else positions
            if self.shifted and attention_mask is not None:
                first = attention_mask.long().argmax(-1, keepdim=True)
                source = torch.maximum(source.expand(len(canvas), -1), first)
            hidden = select_positions(hidden, source)
        elif self.shifted:
            shifted = torch.cat([hidden[:, :1], hidden[:, :-1]], dim=1)
            if attention_mask is not None:  # the first token of a row has none before it: padding says nothing of it
                first = attention_mask.long().argmax(-1)
                rows = torch.arange(len(canvas), device=canvas.device)
                shifted[rows, first] = hidden[rows, first]
            hidden = shifted
        return Prediction(self._logits(hidden), hidden, kept, states)

    def _logits(self, hidden: Tensor) -> Tensor:
        logits: Tensor = self.model.get_output_embeddings()(
            hidden if self.head is None else self.model.get_submodule(self.head)(hidden)
        )
        return logits

    @property
    def hidden_size(self) -> int | None:
        """D, of the hidden states that `predict` gives; None where it gives none."""
        return int(self.model.config.hidden_size)

    def hidden_states(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Last hidden states `(B, T, D)`, unaligned; positions count the tokens that are not padding."""
        return self._encode(input_ids, attention_mask, None)[0]

    def _encode(
        self, input_ids: Tensor, attention_mask: Tensor | None, keep: Tensor | None
    ) -> tuple[Tensor, KeyValues | None]:
        places = None
        if attention_mask is not None:
            attention_mask = attention_mask.to(torch.long)
            places = position_ids(attention_mask)
        output = self.model.base_model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=places,
            **caching(None if keep is None else DynamicCache()),
        )
        states: Tensor = output.last_hidden_state
        return states, None if keep is None else KeyValues.of(cache_of(output), keep, states)

    def _predict_with(
        self, cache: KeyValues, canvas: Tensor, positions: Tensor, attention_mask: Tensor | None
    ) -> Prediction:
        source = positions - self.lookback
        if bool(cache.columns[source.clamp_min(0)].any()):
            raise UserError("predict was asked for a position that its cache holds already")
        active = ~cache.columns
        every = torch.ones_like(canvas) if attention_mask is None else attention_mask.to(torch.long)
        output = self.model.base_model(
            input_ids=canvas[:, active],
            attention_mask=cache.visible(None if attention_mask is None else every),
            position_ids=position_ids(every)[:, active],
            **caching(cache.cache()),
        )
        place = active.cumsum(0) - 1  # of a column among those computed
        if self.shifted and attention_mask is not None:
            first = attention_mask.long().argmax(-1, keepdim=True)
            source = torch.maximum(source.expand(len(canvas), -1), first)
        computed: Tensor = output.last_hidden_state
        hidden = select_positions(computed, place[source.clamp_min(0)])
        states = computed.new_empty(*canvas.shape, computed.shape[-1])
        states[:, cache.columns], states[:, active] = cache.states, computed
        return Prediction(self._logits(hidden), hidden, cache, states)


class ForwardOnlyBackbone(nn.Module):
    """Answers `predict` by the full call, for a module that has `forward` and the four attributes only."""

    def __init__(self, module: BackboneLike) -> None:
        super().__init__()
        self.module = module
        self.mask_token_id = module.mask_token_id
        self.vocab_size = module.vocab_size
        self.tokenizer = module.tokenizer
        self.eos_token_ids = list(module.eos_token_ids)

    remembers, lookback, block_length, hidden_size = False, 0, None, None

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        return self.module(input_ids, attention_mask)

    def predict(
        self,
        canvas: Tensor,
        positions: Tensor | None = None,
        cache: KeyValues | None = None,
        attention_mask: Tensor | None = None,
        keep: Tensor | None = None,
        response_start: int | None = None,
    ) -> Prediction:
        """As `Backbone.predict`, without hidden states and without a cache."""
        if cache is not None or keep is not None:
            raise UserError("this backbone keeps no keys and values: give no cache")
        logits = self.module(canvas, attention_mask)
        return Prediction(logits if positions is None else select_positions(logits, positions))


def position_ids(attention_mask: Tensor) -> Tensor:
    """`(B, T)`: places among the tokens that are not padding."""
    return (attention_mask.cumsum(-1) - 1).clamp_min(0)


AnyBackbone = Backbone | ForwardOnlyBackbone


def as_backbone(module: Any) -> AnyBackbone:
    """The module itself if it has `predict`, else an adapter around it."""
    return module if hasattr(module, "predict") else ForwardOnlyBackbone(module)


def select_positions(states: Tensor, positions: Tensor) -> Tensor:
    """`(B, P, D)` of `(B, T, D)` at `(P,)` columns of all rows, or at `(B, P)`."""
    if positions.dim() == 1:
        return states[:, positions]
    return states.gather(1, positions[..., None].expand(-1, -1, states.shape[-1]))


def device_of(module: Any) -> torch.device:
    """Where a module's parameters or buffers lie; the CPU if it has none."""
    if isinstance(module, nn.Module):
        for tensor in (*module.parameters(), *module.buffers()):
            return tensor.device
    return torch.device("cpu")
