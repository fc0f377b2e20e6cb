"""A latent circuit's parameters as distributions, and sums over its vocabulary."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from codd_lightning.circuits.evidence import Evidence
from codd_lightning.circuits.roles import of_states
from codd_lightning.circuits.scaling import safe

CHUNK = 2**24  # elements that one pass over a part of the vocabulary or of the positions may hold


@dataclass(frozen=True)
class Tables:
    """Parameters in the form that queries use; `P` is the block length, or 1 where all positions share.

    Emissions may be stored in bfloat16, a quarter of what two float32 copies take; every sum over them
    is taken in float32.

    Attributes:
        latent: distributions over latent states by name, as the structure defines them.
        emission: `(P, V, N)`, columns sum to 1 over V.
        emission_logits: `(P, V, N)`, up to `log_normalizer` the log of `emission`.
        log_normalizer: `(P, N)`.
        mass: `(P, N)`, sums of the emission columns, where derivatives in single entries are asked for;
            None where they are 1 for good.
        prepared: what a structure has made of its distributions for faster use, by name.
    """

    latent: dict[str, Tensor]
    emission: Tensor
    emission_logits: Tensor
    log_normalizer: Tensor
    mass: Tensor | None = None
    prepared: dict[str, Any] = field(default_factory=dict)
    _ranked: dict[int, Tensor] = field(default_factory=dict)
    _parts: dict[int, list["Tables"]] = field(default_factory=dict)

    @property
    def num_states(self) -> int:
        """N"""
        return self.emission.shape[2]

    def readings(self, evidence: Evidence) -> list[tuple["Tables", Evidence, slice]]:
        """The states of each role: their emissions, the evidence as they read it, and where they stand among all."""
        roles = evidence.roles
        if roles is None:
            return [(self, evidence, slice(None))]
        size = self.emission.shape[2] // roles.count
        slices = [slice(role * size, (role + 1) * size) for role in range(roles.count)]
        if roles.count not in self._parts:
            self._parts[roles.count] = [self._part(states) for states in slices]
        read = [evidence.read_by(role) for role in range(roles.count)]
        return list(zip(self._parts[roles.count], read, slices, strict=True))

    def _part(self, states: slice) -> "Tables":
        return Tables(
            latent={},
            emission=self.emission[..., states].contiguous(),
            emission_logits=self.emission_logits[..., states],
            log_normalizer=self.log_normalizer[:, states],
            mass=None if self.mass is None else self.mass[:, states],
        )

    def log_emission_of(self, tokens: Tensor) -> Tensor:
        """`log E(n, x_i)`, `(B, L, N)`, by one gather."""
        rows = tokens
        if self._per_position:
            rows = tokens + self.emission.shape[1] * torch.arange(tokens.shape[1], device=tokens.device)
        logits = F.embedding(rows, self.emission_logits.flatten(0, 1))
        return logits.to(self.dtype) - self.log_normalizer[: tokens.shape[1]]

    def log_scores_of_known(self, evidence: Evidence) -> Tensor:
        """What each state makes of the known tokens, `(B, L, N)`: their emission, and what its role makes of them."""
        found = self.log_emission_of(evidence.tokens)
        if evidence.roles is None:
            return found
        return found + of_states(evidence.roles.log_gain.to(found.dtype), found.shape[-1])

    def token_distribution(self, latents: Tensor) -> Tensor:
        """`E(z_i, v)`, `(B, L, V)`, of `(B, L)` states."""
        length = latents.shape[1]
        places = torch.arange(length, device=latents.device)
        return self.emission[:length].expand(length, -1, -1)[places, :, latents].to(self.dtype)

    def token_mixture(self, states: Tensor, positions: Tensor | None = None) -> Tensor:
        """`Σ_n states[n] E(n, v)`: `(B, L, V)` of `(B, L, N)`, or `(B, V)` of `(B, N)` at one position per row."""
        emission = self.emission
        if not self._per_position:
            return torch.cat([states @ part.to(self.dtype).T for part in emission[0].split(self._rows_at_once)], -1)
        if positions is None:
            return torch.einsum("bln,lvn->blv", states, emission[: states.shape[1]].to(self.dtype))
        return torch.einsum("bn,bvn->bv", states, emission[positions].to(self.dtype))

    def rows(self, index: Tensor) -> "Tables":
        """Those of some blocks: the same for all."""
        return self

    def emission_among(self, candidates: Tensor, rows: Tensor, positions: Tensor) -> Tensor:
        """`E(n, v)`, `(M, K, N)`, of `(M, K)` tokens at M positions of M blocks."""
        rows = candidates + self.emission.shape[1] * positions[:, None] if self._per_position else candidates
        return F.embedding(rows, self.emission.flatten(0, 1)).to(self.dtype)

    def emission_of_states(self, candidates: Tensor, latents: Tensor) -> Tensor:
        """`E(z_i, v)`, `(B, L, K)`, of `(B, L, K)` tokens and `(B, L)` states."""
        places = torch.arange(latents.shape[1], device=latents.device)[:, None]
        places = places if self._per_position else torch.zeros_like(places)
        return self.emission[places, candidates, latents[..., None]].to(self.dtype)

    def score_of(self, tokens: Tensor, rows: Tensor, positions: Tensor) -> Tensor:
        """`E(n, x)`, `(M, N)`, of M tokens at their positions of their blocks."""
        places = positions if self._per_position else torch.zeros_like(positions)
        return self.emission[places, tokens].to(self.dtype)

    def expected(self, evidence: Evidence, values: Tensor | None = None, weights: Tensor | None = None) -> Tensor:
        """`Σ_v E(n, v) w_i(v)`, `(M, N)`, at the M soft positions of evidence.

        Args:
            evidence: dense or truncated.
            values: `(P, V, N)` to sum instead of the emissions.
            weights: like the evidence's, with its tail last where truncated, to sum with instead: `(M, V)`
                or `(M, K + 1)`.
        """
        where = evidence.soft.nonzero(as_tuple=True)
        plain = values is None and weights is None
        if evidence.roles is not None:
            assert plain, "anything else is asked of one role at a time"
            if evidence.token_ids is None and not self._per_position:
                return self._expected_by_role(evidence.roles.weights[where])
            parts = [tables.expected(read) for tables, read, _ in self.readings(evidence)]
            return torch.cat(parts, -1)
        table = self.emission if values is None else values
        if weights is None:
            weights = soft_weights(evidence, where).to(self.dtype)
        if evidence.token_ids is None:
            return self._dense_product(weights, where[1], table)
        # Σ_kept T w + tail (Σ T − Σ_kept T), in one pass over the kept rows
        weights, tail = weights[:, :-1], weights[:, -1:]
        ids = evidence.token_ids[where]
        if self._per_position:
            ids = ids + table.shape[1] * where[1][:, None]
        kept = self._bag(ids, (weights - tail).contiguous(), table.flatten(0, 1))
        if values is not None:
            return kept + tail * self._at(values.sum(1), where[1])
        if self.mass is not None:
            tail = tail * self._at(self.mass, where[1])
        return (kept + tail).clamp_min(0.0) if plain else kept + tail

    def _expected_by_role(self, weights: Tensor) -> Tensor:
        """The sums of dense `(M, R, V)` weights over shared emissions, all roles at once."""
        vocab_size, num_states = self.emission.shape[1:]
        count = weights.shape[1]
        emission = self.emission[0].to(self.dtype).view(vocab_size, count, num_states // count)
        found = torch.bmm(weights.to(self.dtype).transpose(0, 1), emission.transpose(0, 1))  # (R, M, N / R)
        return found.transpose(0, 1).flatten(1)

    def largest(self, evidence: Evidence) -> tuple[Tensor, Tensor]:
        """`max_v E(n, v) w_i(v)` and the token that reaches it, `(M, N)` each, at the soft positions."""
        if evidence.roles is not None:
            values, tokens = zip(*[part.largest(read) for part, read, _ in self.readings(evidence)], strict=True)
            return torch.cat(values, -1), torch.cat(tokens, -1)
        where = evidence.soft.nonzero(as_tuple=True)
        weights = soft_weights(evidence, where).to(self.dtype)
        if evidence.token_ids is None:
            ids, tail = None, None
            entries = self.emission[0].numel()
        else:
            ids, weights, tail = evidence.token_ids[where], weights[:, :-1], weights[:, -1:]
            entries = (2 * ids.shape[1] + 1) * self.emission.shape[2]
        found = []
        for rows in torch.arange(len(weights), device=weights.device).split(max(CHUNK // entries, 1)):
            if ids is None or tail is None:
                found.append(self._largest_dense(weights[rows], where[1][rows]))
            else:
                others = None if evidence.tail is None else tail[rows]
                found.append(self._largest_truncated(ids[rows], weights[rows], others, where[1][rows]))
        values, tokens = zip(*found, strict=True)
        return torch.cat(values), torch.cat(tokens)

    def _largest_dense(self, weights: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        products = self._at(self.emission, positions) * weights[..., None]  # (m, V, N)
        return products.max(1)

    def _largest_truncated(
        self, ids: Tensor, weights: Tensor, tail: Tensor | None, positions: Tensor
    ) -> tuple[Tensor, Tensor]:
        count, vocab_size = ids.shape[1], self.emission.shape[1]
        places = positions if self._per_position else torch.zeros_like(positions)
        values, choice = (self.emission[places[:, None], ids] * weights[..., None]).max(1)  # (m, N)
        tokens = ids.gather(1, choice)
        if tail is None:
            return values, tokens
        # of the tokens left out, the most probable of each state: one of its K + 1 best is not among the K kept
        if count not in self._ranked:
            self._ranked[count] = self.emission.topk(min(count + 1, vocab_size), dim=1).indices  # (P, K + 1, N)
        ranked = self._at(self._ranked[count], positions).expand(len(ids), -1, -1)
        kept = torch.zeros(len(ids), vocab_size, dtype=torch.bool, device=ids.device).scatter_(1, ids, True)
        is_kept = kept.gather(1, ranked.flatten(1)).view(ranked.shape)
        others = ranked.gather(1, is_kept.int().argmin(1, keepdim=True)).squeeze(1)
        states = torch.arange(self.emission.shape[2], device=ids.device)
        other_values = self.emission[places[:, None], others, states] * tail
        better = other_values > values
        return torch.where(better, other_values, values), torch.where(better, others, tokens)

    def _dense_product(self, weights: Tensor, positions: Tensor, table: Tensor) -> Tensor:
        if not self._per_position:
            return self._product(weights, table[0])
        found = weights.new_zeros(len(positions), table.shape[2])
        for position in positions.unique().tolist():
            here = (positions == position).nonzero(as_tuple=True)
            found = found.index_put(here, self._product(weights[here], table[position]))
        return found

    def _product(self, weights: Tensor, table: Tensor) -> Tensor:
        """`(M, V) @ (V, N)` in the precision of the weights."""
        if table.dtype == weights.dtype:
            return weights @ table
        total = weights.new_zeros(len(weights), table.shape[1])
        for part, rows in zip(weights.split(self._rows_at_once, 1), table.split(self._rows_at_once), strict=True):
            total += part @ rows.to(weights.dtype)
        return total

    def _bag(self, ids: Tensor, weights: Tensor, table: Tensor) -> Tensor:
        """`Σ_k weights[k] table[ids[k]]`, `(M, N)`, in the precision of the weights."""
        if table.dtype == weights.dtype:
            return F.embedding_bag(ids, table, mode="sum", per_sample_weights=weights)
        at_once = max(CHUNK // (ids.shape[1] * table.shape[1]), 1)
        found = [
            torch.bmm(part[:, None], F.embedding(some, table).to(weights.dtype)).squeeze(1)
            for some, part in zip(ids.split(at_once), weights.split(at_once), strict=True)
        ]
        return torch.cat(found)

    @property
    def dtype(self) -> torch.dtype:
        """Of sums: that of the normalisers, float32 or better."""
        return self.log_normalizer.dtype

    @property
    def _rows_at_once(self) -> int:
        """Rows of the vocabulary that one product takes: all, unless they must be widened first."""
        wide = self.emission.dtype == self.dtype
        return self.emission.shape[1] if wide else max(CHUNK // self.emission.shape[2], 1)

    def _at(self, values: Tensor, positions: Tensor) -> Tensor:
        """Of `(P, ...)` values those of M positions: `(M, ...)`, or `(1, ...)` where all share."""
        return values[positions] if self._per_position else values

    @property
    def _per_position(self) -> bool:
        return len(self.emission) > 1


def normalized_emission(logits: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Log normalisers `(P, N)` in a type, and the emissions `(P, V, N)` in that of their logits.

    Logits of a narrower type are widened a part of the vocabulary at a time.
    """
    if logits.dtype == dtype:
        log_normalizer = logits.logsumexp(1)
        return log_normalizer, (logits - log_normalizer[:, None]).exp()
    parts = logits.split(max(CHUNK // (len(logits) * logits.shape[2]), 1), 1)
    log_normalizer = torch.stack([part.to(dtype).logsumexp(1) for part in parts]).logsumexp(0)
    emission = torch.empty_like(logits)
    first = 0
    for part in parts:
        emission[:, first : first + part.shape[1]] = (part.to(dtype) - log_normalizer[:, None]).exp()
        first += part.shape[1]
    return log_normalizer, emission


def soft_weights(evidence: Evidence, where: tuple[Tensor, ...]) -> Tensor:
    """`(M, V)` weights at M positions, or `(M, K + 1)`: those kept, and that of each token left out."""
    weights = evidence.weights[where]
    if evidence.token_ids is None:
        return weights
    tail = weights.new_zeros(len(weights)) if evidence.tail is None else evidence.tail[where]
    return torch.cat([weights, tail[:, None]], -1)


def emission_entropy(tables: Tables, evidence: Evidence) -> Tensor:
    """`H(x_i | z_i = n)` under `E(n, v) w_i(v)`, `(M, N)` nats, at the soft positions."""
    if evidence.roles is not None:
        return torch.cat([emission_entropy(part, read) for part, read, _ in tables.readings(evidence)], -1)
    where = evidence.soft.nonzero(as_tuple=True)
    weights = soft_weights(evidence, where).to(tables.dtype)
    total = tables.expected(evidence)
    emission = tables.emission.to(tables.dtype)
    spent = tables.expected(evidence, values=torch.special.xlogy(emission, emission))
    spent = spent + tables.expected(evidence, weights=torch.special.xlogy(weights, weights))
    return torch.where(total > 0, safe(total).log() - spent / safe(total), 0.0)
