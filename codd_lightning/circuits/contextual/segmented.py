"""An HMM that counts sentences, and in each says what the context lets it say (after the paper's appendix E)."""

import dataclasses
from typing import Any

import torch
from torch import Tensor, nn

from codd_lightning.circuits.block_tables import BlockTables
from codd_lightning.circuits.chain import Chain
from codd_lightning.circuits.circuit import register_circuit
from codd_lightning.circuits.context import Reads
from codd_lightning.circuits.contextual.features import HEAD_WIDTH, Adapter, require_context
from codd_lightning.circuits.contextual.heads import zero
from codd_lightning.circuits.errors import CircuitError, EvidenceError
from codd_lightning.circuits.evidence import Evidence
from codd_lightning.circuits.hmm import HMM
from codd_lightning.circuits.scaling import normalize_log
from codd_lightning.circuits.segments import SegmentTransitions
from codd_lightning.circuits.tables import Tables


@register_circuit("segmented_hmm")
class SegmentedHMM(HMM):
    """An HMM in one copy for each segment of a block, whose emissions depend on the segment and on the context.

    A segment is what ends with a stop token, a sentence. The last `stop_states` of the M states emit that token alone,
    the others never do, so that the latent state knows how many segments are complete: it is (c, m), and from a stop
    on it is the next copy's. Copies share their tables; what tells them apart is what heads read in the context:

        p̂(z, x) ∝ π(m_1) Π A(m_{i-1}, m_i) · exp φ_i(c_i, m_i) · E_h(c_i, m_i, x_i) p_θ(x_i)
        E_h(c, m, v) ∝ E(m, v) exp Σ_k s(m, k) ⟨U f_{c,k}, T_v⟩ for m among the first `open_states`, else E(m, v)

    where `f_{c,k}` is what an adapter's slot k of segment c finds in the prompt and the block: the same state of the
    same wording says another number in another sentence. Evidence without a context is answered by the HMM of M states
    that all copies are alike to; it is what `log_prob` and `expected_counts` speak of.

    Args:
        num_states: M, latent states of one segment.
        vocab_size: V.
        block_length: the most positions that a block may have.
        hidden_size: D, of the backbone's hidden states.
        stop_token: id of the token that ends a segment.
        open_states: S, how many of the M states may say what the context lets them; the others say the same always.
            Each block gets a table of V · C · S entries. `arranged` chooses which. None for all that do not stop.
        segments: C, the most that are told apart; what follows belongs to the last.
        stop_states: how many of the M states emit the stop token.
        slots: K, what each segment may ask of the context.
        slot_rank: of `⟨U f, T_v⟩`.
        latent_width: hidden units of the potentials' head.
        adapter_width: of the transformer layers that find it.
        adapter_layers: how many.

    Raises:
        CircuitError: a size or the stop token is out of range.
    """

    reads = Reads.EVERYTHING_BEFORE
    takes_truncated = False
    _never: Tensor

    def __init__(
        self,
        num_states: int,
        vocab_size: int,
        block_length: int,
        hidden_size: int,
        stop_token: int,
        open_states: int | None = None,
        segments: int = 4,
        stop_states: int = 4,
        slots: int = 12,
        slot_rank: int = 16,
        latent_width: int = 64,
        adapter_width: int = 64,
        adapter_layers: int = 1,
    ) -> None:
        self._options = {
            "hidden_size": hidden_size,
            "stop_token": stop_token,
            "open_states": 1 if open_states is None else open_states,
            "segments": segments,
            "stop_states": stop_states,
            "slots": slots,
            "slot_rank": slot_rank,
            "latent_width": latent_width,
            "adapter_width": adapter_width,
            "adapter_layers": adapter_layers,
        }
        for name, size in {"num_states": num_states, **self._options}.items():
            least = 0 if name == "stop_token" else 1
            if type(size) is not int or size < least:
                raise CircuitError(f"{name} must be a whole number of at least {least}, not {size!r}")
        if stop_token >= vocab_size:
            raise CircuitError(f"stop_token={stop_token} lies outside the vocabulary of {vocab_size}")
        if stop_states >= num_states:
            raise CircuitError(f"stop_states={stop_states} must be fewer than num_states={num_states}")
        if open_states is None:
            open_states = self._options["open_states"] = num_states - stop_states
        if open_states + stop_states > num_states:
            named = f"open_states={open_states} and stop_states={stop_states}"
            raise CircuitError(f"{named} are more than num_states={num_states} together")
        if adapter_width % HEAD_WIDTH:
            raise CircuitError(
                f"adapter_width={adapter_width} must be a multiple of {HEAD_WIDTH} (the width of a head)"
            )
        super().__init__(num_states, vocab_size, block_length)
        self.hidden_size, self.segments = hidden_size, segments
        self.open_states, self.stop_states = open_states, stop_states
        self.features = Adapter(hidden_size, block_length, adapter_width, adapter_layers, segments * slots)
        self.latent_potentials = nn.Sequential(
            nn.Linear(adapter_width, latent_width),
            nn.GELU(),
            zero(nn.Linear(latent_width, segments * num_states)),
        )
        self.asks = zero(nn.Linear(adapter_width, slot_rank))  # U
        self.tokens = nn.Parameter(torch.empty(vocab_size, slot_rank).normal_())  # T
        speaking = num_states - stop_states
        self.shares = nn.Parameter(torch.empty(speaking, slots).normal_(0.0, slots**-0.5))  # s, first of the open ones
        stop = torch.zeros(vocab_size, dtype=torch.bool)
        stop[stop_token] = True
        is_stop = torch.arange(num_states) >= num_states - stop_states
        self.register_buffer("_never", stop[:, None] != is_stop, persistent=False)  # (V, M): what a state cannot emit

    def config(self) -> dict[str, Any]:
        without = {key: value for key, value in super().config().items() if key != "homogeneous"}
        return {**without, **self._options}

    def state_of(self, latents: Tensor, evidence: Evidence) -> Tensor:
        return latents % self.num_states

    @property
    def state_groups(self) -> list[Tensor]:
        return list(torch.arange(self.num_states).split([len(self.shares), self.stop_states]))

    def by_state(self) -> list[Tensor]:
        last = list(self.latent_potentials[-1].parameters())  # weight and bias
        of_copies = [table.unflatten(0, (self.segments, -1)).transpose(0, 1) for table in last]
        return [*super().by_state(), self.shares, *of_copies]

    def take_states(self, source: Tensor) -> None:
        if any(bool(p.any()) for p in self.asks.parameters()):  # before, no share says anything, and all are random
            self.shares[self.open_states :] = 0.0  # so that what was closed says the same at an open place
        super().take_states(source)

    def arranged(self, said: Tensor) -> Tensor:
        """Open are to be those that say the most nats: how often each is met, times the entropy of its tokens."""
        order = super().arranged(said)
        said = said[: len(self.shares)]
        if self.open_states < len(said):
            nats = torch.special.xlogy(said.sum(1), said.sum(1)) - torch.special.xlogy(said, said).sum(1)
            order[: len(said)] = nats.argsort(descending=True, stable=True)
        return order

    def prepare(self, evidence: Evidence) -> Evidence:
        context = evidence.context
        if context is None:
            return evidence
        self._check_evidence(evidence)
        if evidence.token_ids is not None:
            raise EvidenceError("this circuit reads whole distributions: leave out top_k")
        require_context(context, evidence, self.hidden_size, self.reads)
        with torch.autocast(evidence.tokens.device.type, enabled=False):  # so does every sum of a circuit
            features = self.features(context, evidence.soft.float().mean(-1))
            here, slots = features.split([evidence.length, features.shape[1] - evidence.length], 1)
            potentials = self.latent_potentials(here)
            if evidence.absent is not None:  # nothing is there for a potential to speak of
                potentials = potentials.masked_fill(evidence.absent[..., None], 0.0)
            gains = self.asks(slots) @ self.tokens.T  # (B, C · K, V)
            shares = self.shares[: self.open_states].T
            gains = gains.unflatten(1, (self.segments, -1)).permute(0, 3, 1, 2) @ shares  # (B, V, C, S)
            log_static = self._log_emission()[:, None, : self.open_states]  # minus infinity for the stop token
            log_emission = (log_static + gains).log_softmax(1).flatten(2)
        return dataclasses.replace(evidence, latent_potentials=potentials, log_emission=log_emission, context=None)

    def expected_counts(self, evidence: Evidence, weights: Tensor | None = None) -> dict[str, Tensor]:
        if evidence.log_emission is not None:  # prepared: what heads made of the context
            evidence = dataclasses.replace(evidence, latent_potentials=None, log_emission=None)
        return super().expected_counts(dataclasses.replace(evidence, context=None), weights)

    def _logits(self, table: str) -> Tensor:
        logits = super()._logits(table)
        return logits.masked_fill(self._never, -torch.inf) if table == "emission" else logits

    def _log_emission(self) -> Tensor:
        """`log E`, `(V, M)`."""
        tables = self._tables()
        return (tables.emission_logits - tables.log_normalizer[:, None])[0]

    def _tables_for(self, evidence: Evidence) -> Tables:
        tables = self._tables()
        if evidence.log_emission is None:
            return tables
        closed = self._log_emission()[:, self.open_states :]
        return BlockTables(tables.latent, evidence.log_emission, closed, self.segments, tables.prepared)

    def _log_sum_of(self, tables: Tables, evidence: Evidence) -> Tensor:
        if not isinstance(tables, BlockTables) or bool(evidence.soft.any()):
            return super()._log_sum_of(tables, evidence)
        absent = evidence.absent
        if absent is not None and bool((absent[:, :-1] & ~absent[:, 1:]).any()):
            return super()._log_sum_of(tables, evidence)
        return self._log_sum_of_text(tables, evidence)

    def _log_sum_of_text(self, tables: BlockTables, evidence: Evidence) -> Tensor:
        """The same where all tokens are known up to an end: which copy each position is in is known too."""
        self._check_evidence(evidence)
        stops = ~self._never[evidence.tokens, -1]
        copies = (stops.cumsum(1) - stops.long()).clamp_max(self.segments - 1)
        log_scores = tables.log_emission_in(copies, evidence.tokens)
        if evidence.latent_potentials is not None:
            of_copies = evidence.latent_potentials.to(log_scores.dtype).unflatten(-1, (self.segments, -1))
            at = copies[..., None, None].expand(-1, -1, 1, self.num_states)
            log_scores = log_scores + of_copies.expand(len(copies), -1, -1, -1).gather(2, at).squeeze(2)
        if evidence.absent is not None:
            log_scores = log_scores.masked_fill(evidence.absent[..., None], 0.0)
        scores, log_scales = normalize_log(log_scores)
        return self._log_normalizer(tables, scores) + log_scales.sum(-1)

    def _chain(self, tables: Tables, scores: Tensor) -> Chain:
        if scores.shape[-1] == self.num_states:  # of one copy
            return super()._chain(tables, scores)
        initial = tables.latent["initial"]
        elsewhere = initial.new_zeros((self.segments - 1) * self.num_states)
        counted = SegmentTransitions(tables.latent["transition"], self.segments, self.stop_states)
        return Chain(torch.cat([initial, elsewhere]), tables.prepared.setdefault("segments", counted), scores)
