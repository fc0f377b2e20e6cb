"""What the loop asks of a backbone: logits of some rows and columns, guided, and with cached keys and values."""

import dataclasses
from functools import partial

import torch
from torch import Tensor

from codd_lightning.backbones import AnyBackbone, KeyValues, Prediction
from codd_lightning.decoding.canvas import Canvas
from codd_lightning.decoding.config import DecodingConfig
from codd_lightning.errors import UserError


def _require_blocks(backbone: AnyBackbone, config: DecodingConfig) -> None:
    if backbone.block_length is None:
        return
    if config.paradigm != "block":
        raise UserError(f"decoding.paradigm={config.paradigm}: this backbone sees block by block: use block")
    if config.block_length != backbone.block_length:
        raise UserError(
            f"decoding.block_length={config.block_length} does not fit the backbone's blocks of {backbone.block_length}"
        )
    if config.cache == "dual":
        raise UserError("decoding.cache=dual keeps later blocks, which this backbone does not see: use prefix")


class Predictor:
    """Logits for the positions that a step may commit.

    Attributes:
        passes: of the backbone for one prediction: two with guidance.
    """

    def __init__(self, backbone: AnyBackbone, config: DecodingConfig, canvas: Canvas) -> None:
        if config.cache != "none" and not getattr(backbone, "remembers", False):
            raise UserError(f"decoding.cache={config.cache} needs a backbone that keeps keys and values; this has none")
        _require_blocks(backbone, config)
        self._backbone, self._config, self._canvas = backbone, config, canvas
        self.passes = 2 if config.cfg_scale > 0.0 else 1
        for token in config.suppress_tokens:
            if not 0 <= token < backbone.vocab_size:
                raise UserError(
                    f"decoding.suppress_tokens holds {token}, outside the vocabulary of {backbone.vocab_size}"
                )
        withheld = set(config.suppress_tokens)
        if 0 <= backbone.mask_token_id < backbone.vocab_size:
            withheld.add(backbone.mask_token_id)
        if len(withheld) >= backbone.vocab_size:
            raise UserError("decoding.suppress_tokens holds every token: none is left to propose")
        self._withheld = torch.tensor(sorted(withheld), dtype=torch.long, device=canvas.tokens.device)
        self._kept: dict[bool, tuple[Tensor, KeyValues]] = {}  # by guidance: rows, and what is kept of them

    def forget(self) -> None:
        """Another block begins: drops what is cached, unless nothing later could have changed it."""
        if self._backbone.block_length is None:
            self._kept = {}

    def __call__(self, rows: Tensor, columns: Tensor, revealed: Tensor | None = None) -> Prediction:
        """Logits `(R, P, V)` in float32, minus infinity at the mask token and at suppressed ones, and hidden states.

        Guidance changes logits alone: hidden states are those of the prompted pass.

        Args:
            rows, columns: `(R,)` and `(P,)` long.
            revealed: `(R, P)` long, what to suppose at the columns instead of the canvas's tokens.
        """
        found = self._predict(rows, columns, revealed, unprompted=False)
        logits = found.logits.float()
        if self._config.cfg_scale > 0.0:
            free = self._predict(rows, columns, revealed, unprompted=True).logits.float()
            logits = free + (self._config.cfg_scale + 1.0) * (logits - free)
        return dataclasses.replace(found, logits=logits.index_fill_(-1, self._withheld, -torch.inf))

    def _predict(self, rows: Tensor, columns: Tensor, revealed: Tensor | None, unprompted: bool) -> Prediction:
        canvas = self._canvas
        end = None if self._backbone.block_length is None else int(columns[-1]) + 1  # later blocks are not seen
        tokens, attention_mask = canvas.tokens[rows, :end], canvas.attention_mask[rows, :end]
        if revealed is not None:
            tokens = tokens.index_copy(1, columns, revealed)
        if unprompted:
            tokens = tokens.clone()
            tokens[:, : canvas.prompt_length] = self._backbone.mask_token_id
        ask = partial(
            self._backbone.predict,
            tokens,
            columns,
            attention_mask=attention_mask,
            response_start=canvas.prompt_length,
        )
        if self._config.cache == "none":
            return ask()
        keep = self._cached_columns(columns, tokens.shape[1])
        of, kept = self._kept.get(unprompted, (rows, None))
        if kept is not None and not torch.equal(of, rows):
            # fewer where rows have finished since; a row that joined has nothing kept, and all are computed again
            kept = kept.rows(torch.searchsorted(of, rows)) if bool(torch.isin(rows, of).all()) else None
        if kept is not None and int(kept.columns.sum()) == int(keep.sum()):
            return ask(cache=kept)
        found = ask(cache=kept, keep=keep)
        assert found.cache is not None, "a backbone that remembers gives what it was to keep"
        self._kept[unprompted] = rows, found.cache
        return found

    def _cached_columns(self, columns: Tensor, width: int) -> Tensor:
        """`(T,)` bool: what stays as it was at the block's first step."""
        everything = torch.arange(width, device=columns.device)
        before = everything < columns[0] - self._backbone.lookback
        return before if self._config.cache == "prefix" else before | (everything > columns[-1])
