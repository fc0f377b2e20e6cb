"""Blocks and their evidence as rows of Arrow tables, and back."""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from codd_lightning.circuits import Context, Evidence
from codd_lightning.data.blocks import Blocks
from codd_lightning.diffusion import NoiseLevel
from codd_lightning.errors import UserError

# How numbers are stored; Arrow knows no bfloat16, whose 16 bits stand in an unsigned integer.
STORED = {"float32": pa.float32(), "float16": pa.float16(), "bfloat16": pa.uint16()}
HALVES = ("float16", "bfloat16")
METADATA = b"codd_lightning"
LISTS = ("log_probs", "token_ids", "log_tail")  # of as many numbers as there are masked positions, or W each


@dataclass(frozen=True)
class RowFormat:
    """What a row holds: one scored block, its evidence at its masked positions only.

    Columns, of L positions, P of them masked, W tokens kept at each:

    - `epoch`, `position` (of the example in that epoch's order), `example` (its number in the split);
    - `t`, `candidates`, `scored`: the noise of the block's sample, which the weights of its loss need;
    - `tokens`, `masked`, `counted`: L each;
    - `log_probs`: P · W, nats; the true token is among the kept, and its value stands there once, so that the score of
      the true tokens and the normaliser see the same evidence and a CLL cannot exceed 0;
    - `token_ids`: P · W, and `log_tail`: P, log-probability of each token left out; absent where evidence is dense;
    - `hidden`: L · D, and `before`: S · D, of the S columns before the block that are not padding; absent where
      hidden states were not asked for, or not those before the block.

    Attributes:
        block_length: L.
        vocab_size: V.
        mask_token_id: never a token of a completion.
        width: W; of truncated evidence K, and one more where the mask token lies within the vocabulary.
        truncated: whether W tokens were kept of V.
        dtype: of log-probabilities: "float32", "float16" or "bfloat16".
        hidden_size: D; 0 without hidden states.
        hidden: their dtype, "float16" or "bfloat16"; None without.
        before: whether those before the block are stored as well.
    """

    block_length: int
    vocab_size: int
    mask_token_id: int
    width: int
    truncated: bool
    dtype: str
    hidden_size: int = 0
    hidden: str | None = None
    before: bool = False

    @classmethod
    def of(cls, blocks: Blocks, mask_token_id: int, dtype: str, hidden: str | None) -> "RowFormat":
        """The format that holds some blocks."""
        evidence = blocks.evidence
        return cls(
            block_length=evidence.length,
            vocab_size=evidence.vocab_size,
            mask_token_id=mask_token_id,
            width=evidence.weights.shape[-1],
            truncated=evidence.token_ids is not None,
            dtype=dtype,
            hidden_size=0 if evidence.context is None else evidence.context.hidden.shape[-1],
            hidden=hidden,
            before=evidence.context is not None and evidence.context.before is not None,
        )

    @classmethod
    def of_schema(cls, schema: pa.Schema) -> "RowFormat":
        """The format of a table.

        Raises:
            UserError: it holds no evidence.
        """
        try:
            return cls(**json.loads((schema.metadata or {})[METADATA]))
        except (KeyError, ValueError, TypeError):
            raise UserError("holds no evidence of this version") from None

    @property
    def schema(self) -> pa.Schema:
        """Of the Arrow tables; carries the format itself as metadata."""
        length, stored = self.block_length, STORED[self.dtype]
        columns = {
            "epoch": pa.int32(),
            "position": pa.int32(),
            "example": pa.int64(),
            "t": pa.float32(),
            "candidates": pa.int32(),
            "scored": pa.int32(),
            "tokens": pa.list_(pa.int32(), length),
            "masked": pa.list_(pa.bool_(), length),
            "counted": pa.list_(pa.bool_(), length),
            "log_probs": pa.large_list(stored),
        }
        if self.truncated:
            ids = pa.uint16() if self.vocab_size <= 2**16 else pa.int32()
            columns |= {"token_ids": pa.large_list(ids), "log_tail": pa.large_list(stored)}
        if self.hidden is not None:
            columns["hidden"] = pa.list_(STORED[self.hidden], length * self.hidden_size)
            if self.before:
                columns["before"] = pa.large_list(STORED[self.hidden])
        return pa.schema(columns, metadata={METADATA: json.dumps(dataclasses.asdict(self)).encode()})

    def rows(self, blocks: Blocks, epoch: int, positions: Sequence[int], examples: Tensor) -> pa.RecordBatch:
        """The rows of a batch.

        Args:
            blocks: on the CPU.
            epoch: of its noise.
            positions: of the batch's examples in the epoch's order.
            examples: `(B,)` long, their numbers in the split.
        """
        evidence, noise = blocks.evidence, blocks.noise
        soft = evidence.soft
        ends = np.concatenate([[0], soft.sum(-1).numpy().cumsum()])
        columns: dict[str, Any] = {
            "epoch": np.full(len(soft), epoch),
            "position": np.asarray(positions)[blocks.row.numpy()],
            "example": examples[blocks.row].numpy(),
            "t": noise.t.numpy(),
            "candidates": noise.candidates.numpy(),
            "scored": noise.scored.numpy(),
            "tokens": blocks.tokens,
            "masked": blocks.masked,
            "counted": blocks.counted,
            "log_probs": _bits(evidence.weights[soft].log(), self.dtype),
        }
        if evidence.token_ids is not None and evidence.tail is not None:
            columns["token_ids"] = evidence.token_ids[soft].numpy()
            columns["log_tail"] = _bits(evidence.tail[soft].log(), self.dtype)
        lengths = {name: ends * (1 if columns[name].ndim == 1 else self.width) for name in LISTS if name in columns}
        context = evidence.context
        if context is not None and self.hidden is not None:
            columns["hidden"] = _bits(context.hidden, self.hidden)
            if context.before is not None and context.present is not None:
                columns["before"] = _bits(context.before[context.present], self.hidden)
                lengths["before"] = np.concatenate([[0], context.present.sum(-1).numpy().cumsum()]) * self.hidden_size
        schema = self.schema

        def array(name: str, kind: pa.DataType) -> pa.Array:
            values = columns[name]
            if pa.types.is_large_list(kind):
                return pa.LargeListArray.from_arrays(lengths[name], pa.array(values.reshape(-1), kind.value_type))
            if pa.types.is_fixed_size_list(kind):
                flat = pa.array(np.asarray(values).reshape(-1), kind.value_type)
                return pa.FixedSizeListArray.from_arrays(flat, kind.list_size)
            return pa.array(values, kind)

        return pa.record_batch([array(field.name, field.type) for field in schema], schema=schema)

    def blocks(self, table: pa.Table, row: np.ndarray, examples: int) -> Blocks:
        """The blocks of some rows.

        Args:
            table: M rows.
            row: `(M,)`, of which row of the batch each is.
            examples: rows of the batch.
        """
        size, length = len(table), self.block_length

        def column(name: str) -> np.ndarray:
            chunk = table.column(name).combine_chunks()
            flat = chunk if pa.types.is_primitive(chunk.type) else chunk.flatten()
            return np.array(flat.to_numpy(zero_copy_only=False))  # a copy: what is mapped cannot be written to

        def integers(name: str) -> Tensor:
            return torch.from_numpy(column(name).astype(np.int64))

        tokens = integers("tokens").view(size, length)
        masked = torch.from_numpy(column("masked").astype(bool)).view(size, length)
        counted = torch.from_numpy(column("counted").astype(bool)).view(size, length)
        soft = masked | (tokens == self.mask_token_id)
        weights = torch.zeros(size, length, self.width)
        weights[soft] = _weights(column("log_probs"), self.dtype).view(-1, self.width)
        token_ids = tail = context = None
        if self.truncated:
            token_ids = torch.arange(self.width).repeat(size, length, 1)
            token_ids[soft] = integers("token_ids").view(-1, self.width)
            tail = torch.zeros(size, length)
            tail[soft] = _weights(column("log_tail"), self.dtype)
        if self.hidden is not None:
            states = _numbers(column("hidden"), self.hidden).view(size, length, self.hidden_size)
            context = Context(states, *(self._before(table, column("before")) if self.before else ()))
        return Blocks(
            tokens=tokens,
            masked=masked,
            counted=counted,
            evidence=Evidence(
                tokens.masked_fill(soft, 0), ~soft, weights, self.vocab_size, token_ids, tail, context=context
            ),
            row=torch.from_numpy(row),
            noise=NoiseLevel(torch.from_numpy(column("t")), integers("candidates"), integers("scored")),
            examples=examples,
        )

    def _before(self, table: pa.Table, stored: np.ndarray) -> tuple[Tensor, Tensor]:
        """Hidden states before the blocks, `(M, S, D)`, to the right; and which of them there are, `(M, S)` bool."""
        assert self.hidden is not None, "stored beside those of the blocks"
        sizes = table.column("before").combine_chunks().value_lengths().to_numpy()
        widths = torch.from_numpy(sizes // self.hidden_size)
        width = max(int(widths.max()), 1)
        present = torch.arange(width) >= width - widths[:, None]
        states = _numbers(stored, self.hidden)
        before = states.new_zeros(*present.shape, self.hidden_size)
        before[present] = states.view(-1, self.hidden_size)
        return before, present


def _bits(values: Tensor, dtype: str) -> np.ndarray:
    """Numbers as they are stored."""
    stored = values.to(getattr(torch, dtype)).contiguous()
    return (stored.view(torch.uint16) if dtype == "bfloat16" else stored).numpy()


def _numbers(stored: np.ndarray, dtype: str) -> Tensor:
    values = torch.from_numpy(stored)
    return values.view(torch.bfloat16) if dtype == "bfloat16" else values


def _weights(stored: np.ndarray, dtype: str) -> Tensor:
    """Weights of stored log-probabilities; as in `Evidence`, only minus infinity is impossible."""
    logs = _numbers(stored, dtype).float()
    return logs.exp().clamp_min(torch.finfo(torch.float32).tiny).masked_fill(logs == -torch.inf, 0.0)
