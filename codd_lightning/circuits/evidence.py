"""What a circuit is conditioned on: known tokens, and soft evidence where tokens are masked."""

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from codd_lightning.circuits.carried import Carried
from codd_lightning.circuits.context import Context
from codd_lightning.circuits.evidence_checks import check_arguments, check_mass
from codd_lightning.circuits.roles import Roles
from codd_lightning.circuits.scaling import masked_log


@dataclass(frozen=True)
class Evidence(Carried):
    """Non-negative weights `w_i(v)` over tokens for every position of `B` blocks.

    A known token weighs 1 and every other token of its position 0. A masked position carries the
    backbone's distribution, dense, or as its `K` largest entries and one weight for each token left
    out. An absent position (a block that ends before its length) weighs 1 for every token: it is
    summed out of every query, and any token given for it is ignored.

    Attributes:
        tokens: `(B, L)` long, the known token where `observed`; any valid id elsewhere.
        observed: `(B, L)` bool.
        weights: `(B, L, V)`, or `(B, L, K)` beside `token_ids`; read only at soft positions.
        vocab_size: V.
        token_ids: `(B, L, K)` long, ascending, distinct: the tokens kept by truncation; None if dense.
        tail: `(B, L)`, weight of each of the `V - K` tokens left out; None if dense, or if they weigh 0.
        absent: `(B, L)` bool; None where every position is part of its block.
        latent_potentials: `(B, L, N)`, log potentials over the circuit's latent states, which both
            the score of a completion and its normaliser carry (paper, appendix E.1); None for none.
        log_emission: `(B, V, C · S)`, what states that read the context emit in it (`BlockTables`), instead of the
            circuit's emissions; None for those.
        roles: weights of their own for groups of states (appendix E.2); None where all states read the same.
        context: what potentials and roles are still to be made of, by a circuit that reads it; None for none.
    """

    tokens: Tensor
    observed: Tensor
    weights: Tensor
    vocab_size: int
    token_ids: Tensor | None = None
    tail: Tensor | None = None
    absent: Tensor | None = None
    latent_potentials: Tensor | None = None
    log_emission: Tensor | None = None
    roles: Roles | None = None
    context: Context | None = None

    @classmethod
    def from_logits(
        cls,
        logits: Tensor,
        tokens: Tensor,
        mask_token_id: int,
        temperature: float = 1.0,
        top_k: int | None = None,
        keep: Tensor | None = None,
        *,
        absent: Tensor | None = None,
        latent_potentials: Tensor | None = None,
        context: Context | None = None,
        tail: bool = True,
    ) -> "Evidence":
        """Evidence from a backbone's logits and a partly masked block.

        Args:
            logits: `(B, L, V)`, any floating type; softmax is taken in float32 or better. Only those
                of masked positions count.
            tokens: `(B, L)` long, `mask_token_id` where unknown.
            mask_token_id: never a token of a completion: its weight is 0. May lie outside the vocabulary.
            temperature: divides the logits.
            top_k: keep this many tokens per position and spread the rest of the mass evenly over the
                tokens left out; None, or V and more, keeps all.
            keep: `(B, L)` long, tokens that truncation must not drop (in training the true ones).
            absent: `(B, L)` bool, positions beyond the end of their block.
            latent_potentials: `(B, L, N)` log potentials over latent states.
            context: for a circuit that reads it.
            tail: whether the tokens left out share the rest of the mass; False rules them out.

        Raises:
            EvidenceError: shapes disagree, a token lies outside the vocabulary, the temperature or
                `top_k` is not positive, or the logits of a masked position have no finite maximum.
        """
        check_arguments(logits, tokens, mask_token_id, temperature, top_k, keep, absent, latent_potentials)
        vocab_size = logits.shape[-1]
        observed = tokens != mask_token_id
        soft = ~observed if absent is None else ~observed & ~absent
        scores = logits if logits.dtype == torch.float64 else logits.float()
        mask_is_token = 0 <= mask_token_id < vocab_size
        if mask_is_token and not bool((scores[..., mask_token_id] == -torch.inf).all()):
            is_mask = torch.arange(vocab_size, device=logits.device) == mask_token_id
            scores = scores.masked_fill(is_mask, -torch.inf)
        check_mass(scores, soft)
        # whatever stands at other positions counts for nothing, and costs nothing
        some = scores.flatten(0, 1) if bool(soft.all()) else scores[soft]  # (M, V)
        if temperature != 1.0:  # less the largest score first: a small temperature then overflows to 0 alone
            some = (some - some.detach().amax(-1, keepdim=True)) / temperature
        tokens = tokens.masked_fill(~observed, 0)
        common: dict[str, Any] = {"absent": absent, "latent_potentials": latent_potentials, "context": context}
        if top_k is not None and mask_is_token and tail:
            top_k += 1  # the mask token is kept as well, with its weight of 0, so that no tail reaches it
        place = soft.nonzero(as_tuple=True)
        if top_k is None or top_k >= vocab_size:
            weights = scores.new_zeros(scores.shape).index_put(place, _possible(some.softmax(-1), some))
            return cls(tokens, observed, weights, vocab_size, **common)

        always = mask_token_id if mask_is_token and tail else None
        ranking = _ranking(some.detach(), always, None if keep is None else keep[soft], mask_token_id)
        ids = ranking.topk(top_k, dim=-1).indices.sort(dim=-1).values  # in order: memory is read in order
        kept = some.gather(-1, ids)
        found = _possible((kept - some.logsumexp(-1, keepdim=True)).exp(), kept)  # (M, K)
        shape = (*tokens.shape, top_k)
        token_ids = torch.arange(top_k, device=tokens.device).expand(shape).index_put(place, ids)
        weights = scores.new_zeros(shape).index_put(place, found)
        if not tail:
            return cls(tokens, observed, weights, vocab_size, token_ids, **common)
        rest = (1.0 - found.sum(-1)).clamp_min(0.0) / (vocab_size - top_k)
        rest = scores.new_zeros(tokens.shape).index_put(place, rest)
        return cls(tokens, observed, weights, vocab_size, token_ids, rest, **common)

    @classmethod
    def nothing_known(
        cls,
        batch_size: int,
        length: int,
        vocab_size: int,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> "Evidence":
        """Evidence in which every token weighs 1: a circuit conditioned on it is the circuit itself."""
        nothing = torch.zeros(batch_size, length, dtype=torch.long, device=device)
        ones = torch.ones(batch_size, length, dtype=dtype, device=device)
        return cls(nothing, nothing.bool(), ones[..., None], vocab_size, nothing[..., None], ones)

    @property
    def batch_size(self) -> int:
        return self.tokens.shape[0]

    @property
    def length(self) -> int:
        return self.tokens.shape[1]

    @property
    def soft(self) -> Tensor:
        """`(B, L)` bool: positions that carry a distribution."""
        return ~self.observed if self.absent is None else ~self.observed & ~self.absent

    @property
    def candidates(self) -> Tensor | None:
        """`(B, L, K)` long: the only tokens possible at soft positions; None where all of the vocabulary are."""
        return self.token_ids if self.tail is None else None

    def clamp(self, tokens: Tensor, where: Tensor) -> "Evidence":
        """The same evidence with `tokens` known at `where`, both `(B, L)`; absent positions stay absent."""
        if self.absent is not None:
            where = where & ~self.absent
        roles = self.roles
        if roles is not None:
            fresh = (where & self.soft)[..., None]
            base = self._weight_of(tokens)[..., None]
            gain = masked_log(roles.weight_of(tokens, self.token_ids)) - masked_log(base)
            # of a token that the evidence rules out its own weight of 0 says all
            gain = torch.where(fresh & (base > 0), gain, roles.log_gain)
            roles = dataclasses.replace(roles, log_gain=gain)
        return dataclasses.replace(
            self, tokens=torch.where(where, tokens, self.tokens), observed=self.observed | where, roles=roles
        )

    def alone(self) -> "Evidence":
        """The same blocks with nothing known and every token of weight 1: what a circuit makes of the context alone."""
        even = self.weights.new_ones(()).expand(*self.tokens.shape, self.vocab_size)
        return dataclasses.replace(
            self, observed=torch.zeros_like(self.observed), weights=even, token_ids=None, tail=None
        )

    def read_by(self, role: int | Tensor) -> "Evidence":
        """The evidence as one role reads it, or `(B, L)` roles, one a position; itself where it has no roles."""
        roles = self.roles
        if roles is None:
            return self

        def of(values: Tensor) -> Tensor:
            if isinstance(role, int):
                return values[:, :, role]
            index = role[(..., *[None] * (values.dim() - 2))]
            return values.gather(2, index.expand(-1, -1, 1, *values.shape[3:])).squeeze(2)

        tail = None if roles.tail is None else of(roles.tail)
        return dataclasses.replace(self, weights=of(roles.weights), tail=tail, roles=None)

    def log_weight(self, tokens: Tensor, where: Tensor | None = None) -> Tensor:
        """`Σ_i log w_i(x_i)` over the positions of `where` (all if None), in nats; minus infinity if impossible.

        Args:
            tokens: `(B, L)` long; evidence of one row serves any number of completions.
            where: `(B, L)` bool.

        Returns:
            `(B,)`
        """
        observed, soft = self.observed.expand(tokens.shape), self.soft.expand(tokens.shape)
        known = torch.where(tokens == self.tokens, 0.0, -torch.inf).to(self.weights.dtype)
        per_position = torch.where(soft, self._weight_of(tokens).log(), 0.0)
        per_position = torch.where(observed & ~soft, known, per_position)
        if self.absent is not None:
            per_position = per_position.masked_fill(self.absent, 0.0)
        if where is not None:
            per_position = per_position.masked_fill(~where, 0.0)
        return per_position.sum(-1)

    def dense_weights(self, positions: Tensor | None = None) -> Tensor:
        """Weights of every token where it is not known: soft ones spread out, 1 where absent.

        Args:
            positions: `(B,)` long, one position per row; all positions if None.

        Returns:
            `(B, L, V)` or `(B, V)`; undefined at known positions.
        """
        at: slice | tuple[Tensor, Tensor] = slice(None)
        if positions is not None:
            at = (torch.arange(self.batch_size, device=positions.device), positions)
        weights = self.weights[at]
        if self.token_ids is not None:
            rest = weights.new_zeros(()) if self.tail is None else self.tail[at][..., None]
            spread = rest.expand(*weights.shape[:-1], self.vocab_size)
            weights = spread.scatter(-1, self.token_ids[at], weights)
        return weights if self.absent is None else weights.masked_fill(self.absent[at][..., None], 1.0)

    def _weight_of(self, tokens: Tensor) -> Tensor:
        if self.token_ids is None:
            weights = self.weights.expand(*tokens.shape, -1)
            return weights.gather(-1, tokens[..., None]).squeeze(-1)
        hits = self.token_ids == tokens[..., None]
        rest = self.weights.new_zeros(()) if self.tail is None else self.tail
        return torch.where(hits.any(-1), (self.weights * hits).sum(-1), rest.expand(tokens.shape))


def _ranking(scores: Tensor, always: int | None, keep: Tensor | None, mask_token_id: int) -> Tensor:
    """Scores with plus infinity at what truncation must not drop: one token everywhere, and those of `keep`."""
    if always is None and keep is None:
        return scores
    scores = scores.clone()
    if always is not None:
        scores[..., always] = torch.inf
    if keep is None:
        return scores
    known = (keep != mask_token_id)[..., None]
    index = keep[..., None].where(known, 0)
    return scores.scatter_(-1, index, torch.where(known, torch.inf, scores.gather(-1, index)))


def _possible(weights: Tensor, scores: Tensor) -> Tensor:
    """Weights that underflowed, at the least number instead of 0: only a score of minus infinity is impossible."""
    return weights.clamp_min(torch.finfo(weights.dtype).tiny).masked_fill(scores == -torch.inf, 0.0)
