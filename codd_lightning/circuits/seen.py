"""Circuits with parameters for the tokens that occur, and one shared row for all others."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from codd_lightning.circuits.circuit import Circuit, describe, from_description, register_circuit
from codd_lightning.circuits.context import Reads
from codd_lightning.circuits.errors import CircuitError
from codd_lightning.circuits.evidence import Evidence
from codd_lightning.circuits.latent import LatentCircuit
from codd_lightning.circuits.posterior import Mode, Posterior
from codd_lightning.circuits.scaling import safe
from codd_lightning.circuits.vocabulary import Reduced, Vocabulary


@register_circuit("seen")
class Seen(Circuit):
    """A latent circuit over the S tokens seen in training, in which the V - S others share one row evenly.

    The circuit over V tokens whose rows of unseen tokens are tied, exactly, at the cost of one over S + 1.

    Args:
        base: over S + 1 entries, the last of which stands for all others; or its description.
        vocab_size: V.
        token_ids: the S tokens, ascending.

    Raises:
        CircuitError: the base does not fit the tokens, or reads the backbone's hidden states.
    """

    def __init__(self, base: Circuit | Mapping[str, Any], vocab_size: int, token_ids: Sequence[int]) -> None:
        super().__init__()
        described = isinstance(base, Mapping)
        circuit = from_description(dict(base), Path("base")) if isinstance(base, Mapping) else base
        if circuit.reads != Reads.NOTHING:
            raise CircuitError(f"a circuit {circuit.structure!r} reads hidden states, and needs vocabulary=all")
        if not isinstance(circuit, LatentCircuit):
            raise CircuitError(f"a circuit {circuit.structure!r} has no emissions to share")
        self.vocabulary = Vocabulary(vocab_size, token_ids)
        if circuit.vocab_size != self.vocabulary.tail + 1:
            raise CircuitError(
                f"a base over {circuit.vocab_size} entries does not fit {self.vocabulary.tail} tokens and the others"
            )
        self.base = circuit
        self.vocab_size = vocab_size
        self.block_length = circuit.block_length
        self.num_states = circuit.num_states
        if not described:  # whose weights mean nothing yet
            self._spread_tail()

    @property
    def core(self) -> LatentCircuit:
        return self.base

    def config(self) -> dict[str, Any]:
        return {
            "base": describe(self.base),
            "vocab_size": self.vocab_size,
            "token_ids": self.vocabulary.token_ids,
        }

    def summary(self) -> str:
        return f"{self.vocabulary.tail} seen of {self.vocab_size} tokens, {self.base.structure} {self.base.summary()}"

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draws random starting parameters; an unseen token starts about as likely as a seen one."""
        self.base.reset_parameters(generator)
        self._spread_tail()

    def forget_tokens(self) -> None:
        """Makes all tokens equally likely in every state."""
        self.base.forget_tokens()
        self._spread_tail()

    @torch.no_grad()
    def _spread_tail(self) -> None:
        self.base.emission_logits[:, self.vocabulary.tail] += self.vocabulary.log_unseen

    def as_core_reads(self, tokens: Tensor, evidence: Evidence) -> tuple[Tensor, Evidence]:
        return self.vocabulary.entry_of[tokens], self._reduce(evidence).evidence

    def log_prob(self, tokens: Tensor) -> Tensor:
        self._check_tokens(tokens)
        found = self.base.log_prob(self.vocabulary.entry_of[tokens])
        return found - self.vocabulary.log_unseen * self.vocabulary.is_unseen(tokens).sum(-1).to(found.dtype)

    def log_partition(self, evidence: Evidence) -> Tensor:
        reduced = self._reduce(evidence)
        return self.base.log_partition(reduced.evidence) + reduced.log_spread

    def posterior(self, evidence: Evidence) -> Posterior:
        return SeenPosterior(self, evidence, self._reduce(evidence))

    def expected_counts(self, evidence: Evidence, weights: Tensor | None = None) -> dict[str, Tensor]:
        return self.base.expected_counts(self._reduce(evidence).evidence, weights)

    def _log_sum(self, evidence: Evidence) -> Tensor:
        reduced = self._reduce(evidence)
        return self.base._log_sum(reduced.evidence) + reduced.log_spread

    def _reduce(self, evidence: Evidence) -> Reduced:
        self._check_evidence(evidence)
        if evidence.roles is not None:
            raise CircuitError("emission roles weigh each token of their own: use a circuit with vocabulary=all")
        return self.vocabulary.reduce(evidence)


class SeenPosterior(Posterior):
    """The posterior of the base; what it gives to the tail belongs to the unseen tokens by their evidence."""

    circuit: Seen

    def __init__(self, circuit: Seen, evidence: Evidence, reduced: Reduced) -> None:
        self.circuit = circuit
        self._evidence = evidence
        self._reduced = reduced
        self._base = circuit.base.posterior(reduced.evidence)
        self.num_draws = self._base.num_draws

    @property
    def evidence(self) -> Evidence:
        return self._evidence

    def sample_latents(self, generator: torch.Generator | None = None, uniforms: Tensor | None = None) -> Tensor:
        return self._base.sample_latents(generator, uniforms)

    @torch.no_grad()
    def token_distribution(self, latents: Tensor) -> Tensor:
        return self._of_tokens(self._base.token_distribution(latents), None)

    @torch.no_grad()
    def token_marginals(self, positions: Tensor | None = None) -> Tensor:
        return self._of_tokens(self._base.token_marginals(positions), positions)

    @torch.no_grad()
    def candidate_distribution(self, latents: Tensor) -> Tensor:
        if self._reduced.slots is None:
            return self.token_distribution(latents)
        return self._of_candidates(self._base.candidate_distribution(latents), self._reduced.slots, slice(None))

    @torch.no_grad()
    def candidate_marginals(self, positions: Tensor | None = None) -> Tensor:
        if self._reduced.slots is None:
            return self.token_marginals(positions)
        at = self._at(positions)
        return self._of_candidates(self._base.candidate_marginals(positions), self._reduced.slots[at], at)

    @torch.no_grad()
    def condition(self, row: Tensor | int, position: Tensor | int, token: Tensor | int) -> None:
        evidence, vocabulary = self._evidence, self.circuit.vocabulary
        row, position, token = (
            torch.as_tensor(x, device=evidence.tokens.device).reshape(-1) for x in (row, position, token)
        )
        if len(token) and not 0 <= int(token.min()) <= int(token.max()) < vocabulary.vocab_size:
            raise CircuitError(
                f"tokens must lie in [0, {vocabulary.vocab_size}), not in [{int(token.min())}, {int(token.max())}]"
            )
        self._base.condition(row, position, vocabulary.entry_of[token])
        place = (row, position)
        tokens = evidence.tokens.index_put(place, token)
        observed = evidence.observed.index_put(place, torch.ones_like(token, dtype=torch.bool))
        absent = evidence.absent
        if absent is not None:
            absent = absent.index_put(place, torch.zeros_like(token, dtype=torch.bool))
        self._evidence = dataclasses.replace(evidence, tokens=tokens, observed=observed, absent=absent)

    @torch.no_grad()
    def mode(self) -> Mode:
        """As `Posterior.mode`: of the unseen tokens, which are all alike to the circuit, the evidence's best."""
        evidence, base, vocabulary = self._evidence, self._base.evidence, self.circuit.vocabulary
        dense = evidence.dense_weights()
        unseen = vocabulary.unseen_weights(dense)
        best, choice = unseen.index_fill(-1, vocabulary.kept, -1.0).max(-1)  # (B, L)
        weights = torch.cat([dense.index_select(-1, vocabulary.kept), best[..., None] / vocabulary.unseen], -1)
        largest = dataclasses.replace(base, weights=weights, token_ids=None, tail=None)
        found = self.circuit.base.posterior(largest).mode()
        log_ratio = self.circuit.base.log_partition(largest) - self.circuit.base.log_partition(base)
        entries = found.tokens.clamp_max(vocabulary.tail - 1)
        tokens = torch.where(found.tokens == vocabulary.tail, choice, vocabulary.kept[entries])
        tokens = torch.where(evidence.observed, evidence.tokens, tokens)
        if evidence.absent is not None:
            tokens = tokens.masked_fill(evidence.absent, 0)
        return Mode(found.latents, tokens, found.log_prob + log_ratio)

    @torch.no_grad()
    def entropy(self) -> Tensor:
        tail = self._base.token_marginals()[..., self.circuit.vocabulary.tail]  # (B, L)
        share = self._unseen_share(None)
        within = -torch.special.xlogy(share, share).sum(-1)
        return self._base.entropy() + (tail * within).masked_fill(~self._evidence.soft, 0.0).sum(-1)

    def rows(self, index: Tensor) -> "SeenPosterior":
        chosen = object.__new__(SeenPosterior)
        chosen.circuit, chosen.num_draws = self.circuit, self.num_draws
        chosen._evidence = self._evidence.rows(index)
        slots = self._reduced.slots
        chosen._reduced = Reduced(
            self._reduced.evidence.rows(index),
            self._reduced.log_spread[index],
            None if slots is None else slots[index],
        )
        chosen._base = self._base.rows(index)
        return chosen

    @staticmethod
    def _at(positions: Tensor | None) -> slice | tuple[Tensor, Tensor]:
        if positions is None:
            return slice(None)
        return torch.arange(len(positions), device=positions.device), positions

    def _unseen_share(self, positions: Tensor | None) -> Tensor:
        """What each unseen token has of the tail, `(B, L, V)` or `(B, V)`: 0 at the others."""
        weights = self.circuit.vocabulary.unseen_weights(self._evidence.dense_weights(positions))
        return weights / safe(weights.sum(-1, keepdim=True))

    def _of_tokens(self, entries: Tensor, positions: Tensor | None) -> Tensor:
        """Probabilities of V tokens from those of S + 1 entries."""
        vocabulary, at = self.circuit.vocabulary, self._at(positions)
        tokens = self._unseen_share(positions).to(entries.dtype) * entries[..., -1:]
        tokens[..., vocabulary.kept] = entries[..., :-1]
        known = F.one_hot(self._evidence.tokens[at], vocabulary.vocab_size).to(entries.dtype)
        return torch.where(self._evidence.observed[at][..., None] & ~self._absent(at)[..., None], known, tokens)

    def _of_candidates(self, entries: Tensor, slots: Tensor, at: slice | tuple[Tensor, Tensor]) -> Tensor:
        ids, weights = self._evidence.token_ids, self._evidence.weights
        assert ids is not None, "evidence has candidates"
        unseen = self.circuit.vocabulary.is_unseen(ids[at])
        of_tail = weights[at] * unseen
        share = torch.where(unseen, of_tail / safe(of_tail.sum(-1, keepdim=True)), 1.0)
        return entries.gather(-1, slots) * share.to(entries.dtype)

    def _absent(self, at: slice | tuple[Tensor, Tensor]) -> Tensor:
        absent = self._evidence.absent
        return torch.zeros_like(self._evidence.observed[at]) if absent is None else absent[at]
