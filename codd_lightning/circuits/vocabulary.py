"""The tokens that occur, and one entry for all others: evidence over a vocabulary as evidence over these few."""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from codd_lightning.circuits.errors import CircuitError
from codd_lightning.circuits.evidence import Evidence


@dataclass(frozen=True)
class Reduced:
    """Evidence over S + 1 entries.

    Attributes:
        evidence: the last entry weighs the mean of what the unseen tokens weigh.
        log_spread: `(B,)` nats, of the known tokens that are unseen: each is one of V - S.
        slots: `(B, L, K)` long, where each of the candidates stands among those of the reduced evidence; None where
            the evidence has none.
    """

    evidence: Evidence
    log_spread: Tensor
    slots: Tensor | None


class Vocabulary(nn.Module):
    """S tokens with an entry each, in ascending order, and the tail: the entry S of all others, equally likely in it.

    Args:
        vocab_size: V.
        token_ids: of the S tokens, ascending.

    Attributes:
        unseen: V - S.
        log_unseen: its log.

    Raises:
        CircuitError: the ids are not distinct, ascending and inside the vocabulary, or are none or all of it.
    """

    entry_of: Tensor
    kept: Tensor

    def __init__(self, vocab_size: int, token_ids: Sequence[int]) -> None:
        super().__init__()
        ids = list(token_ids)
        if not ids or not all(type(i) is int for i in ids) or sorted(set(ids)) != ids:
            raise CircuitError("token_ids must be distinct token ids in ascending order, at least one")
        if ids[0] < 0 or ids[-1] >= vocab_size:
            raise CircuitError(f"token_ids must lie in [0, {vocab_size}), not in [{ids[0]}, {ids[-1]}]")
        if len(ids) == vocab_size:
            raise CircuitError(f"all {vocab_size} tokens are seen: use vocabulary=all")
        self.vocab_size, self.token_ids = vocab_size, ids
        self.unseen = vocab_size - len(ids)
        self.log_unseen = math.log(self.unseen)
        kept = torch.tensor(ids)
        entry_of = torch.full((vocab_size,), len(ids))
        entry_of[kept] = torch.arange(len(ids), device=kept.device)
        self.register_buffer("kept", kept, persistent=False)
        self.register_buffer("entry_of", entry_of, persistent=False)

    @property
    def tail(self) -> int:
        """The entry of the unseen tokens, S."""
        return len(self.token_ids)

    def is_unseen(self, tokens: Tensor) -> Tensor:
        """Which tokens have no entry of their own."""
        return self.entry_of[tokens] == self.tail

    def unseen_weights(self, weights: Tensor) -> Tensor:
        """`(..., V)` weights of the unseen tokens, 0 at the others."""
        return weights.index_fill(-1, self.kept, 0.0)

    def reduce(self, evidence: Evidence) -> Reduced:
        """The evidence over entries: exact, because the circuit's probabilities of the unseen tokens are all alike."""
        known = evidence.observed if evidence.absent is None else evidence.observed & ~evidence.absent
        log_spread = -self.log_unseen * (known & self.is_unseen(evidence.tokens)).sum(-1).to(evidence.weights.dtype)
        base = dataclasses.replace(evidence, tokens=self.entry_of[evidence.tokens], vocab_size=self.tail + 1)
        if not bool(evidence.soft.any()):  # known tokens alone: the weights are not read
            nothing = evidence.weights.new_zeros(*evidence.tokens.shape, self.tail + 1)
            slots = None if evidence.candidates is None else self.entry_of[evidence.candidates]
            return Reduced(dataclasses.replace(base, weights=nothing, token_ids=None, tail=None), log_spread, slots)
        if evidence.token_ids is None:
            weights = evidence.weights
            of_tail = self.unseen_weights(weights).sum(-1, keepdim=True) / self.unseen
            weights = torch.cat([weights.index_select(-1, self.kept), of_tail], -1)
            return Reduced(dataclasses.replace(base, weights=weights), log_spread, None)
        return self._reduce_truncated(evidence, base, log_spread)

    def _reduce_truncated(self, evidence: Evidence, base: Evidence, log_spread: Tensor) -> Reduced:
        assert evidence.token_ids is not None, "asked of truncated evidence alone"
        entries, weights = self.entry_of[evidence.token_ids], evidence.weights  # (B, L, K)
        unseen = entries == self.tail
        rest = weights.new_zeros(evidence.tokens.shape) if evidence.tail is None else evidence.tail
        left_out = self.unseen - unseen.sum(-1)  # of the unseen tokens
        of_tail = ((weights * unseen).sum(-1) + rest * left_out) / self.unseen
        count = entries.shape[-1]
        slots = entries
        if count >= self.tail:  # about as many as there are entries: dense
            spread = rest[..., None].expand(*rest.shape, self.tail + 1)
            weights = spread.scatter(-1, entries, weights)  # unseen tokens all write the tail, which is set below
            weights = torch.cat([weights[..., :-1], of_tail[..., None]], -1)
            reduced = dataclasses.replace(base, weights=weights, token_ids=None, tail=None)
        else:
            # the places of unseen tokens go to entries that were left out, which keep the weight that they had there
            taken = torch.zeros(*rest.shape, min(2 * count, self.tail), dtype=torch.int8, device=rest.device)
            inside = entries < taken.shape[-1]
            taken = taken.scatter_add(-1, entries.where(inside, 0), inside.to(taken.dtype))
            free = taken.argsort(dim=-1, stable=True)[..., :count]  # at least so many are not taken
            number = (unseen.cumsum(-1) - 1).clamp_min(0)
            ids, order = torch.where(unseen, free.gather(-1, number), entries).sort(-1)
            weights = torch.where(unseen, rest[..., None], weights).gather(-1, order)
            ids = torch.cat([ids, torch.full_like(ids[..., :1], self.tail)], -1)
            weights = torch.cat([weights, of_tail[..., None]], -1)
            slots = torch.where(unseen, count, order.argsort(-1))
            tail = None if evidence.tail is None else rest
            reduced = dataclasses.replace(base, weights=weights, token_ids=ids, tail=tail)
        return Reduced(reduced, log_spread, slots if evidence.tail is None else None)
