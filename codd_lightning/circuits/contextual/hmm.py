"""The HMM with potentials and emissions that depend on what the backbone knows (paper, appendix E)."""

import dataclasses
from typing import Any

import torch
from torch import Tensor, nn

from codd_lightning.circuits.bank import BankTransitions, banked
from codd_lightning.circuits.chain import Chain
from codd_lightning.circuits.circuit import register_circuit
from codd_lightning.circuits.context import Reads
from codd_lightning.circuits.contextual.features import HEAD_WIDTH, Adapter, PlainFeatures, require_context
from codd_lightning.circuits.contextual.heads import LATENT, EmissionRoles, latent_potentials, zero
from codd_lightning.circuits.errors import CircuitError
from codd_lightning.circuits.evidence import Evidence
from codd_lightning.circuits.hmm import HMM
from codd_lightning.circuits.tables import Tables


@register_circuit("contextual_hmm")
class ContextualHMM(HMM):
    """An HMM whose score and normaliser both carry what heads make of the backbone's hidden states.

    Everything that is exact of an HMM stays exact. Evidence without a context is answered by the static part
    alone, which is also what `log_prob` speaks of; heads start at nothing, so that training starts there.

    Args:
        num_states: N, latent states; a multiple of `roles`.
        vocab_size: V.
        block_length: the most positions that a block may have.
        hidden_size: D, of the backbone's hidden states.
        latent: head of potentials over states: "none", "linear", "low_rank" or "mlp".
        latent_width: rank of "low_rank", hidden units of "mlp".
        roles: R, groups of states that read the backbone's distribution in their own way; 0 for none.
        role_rank: of a role's reweighting.
        adapter_width: of transformer layers over the prompt and the block that heads read; 0 for none, where they read
            the position's own hidden state.
        adapter_layers: how many.
        transition_bank: K, tables of transitions that each position mixes as the context says; 0 for the one table.
        transition_rank: of what each of them changes of that table's logits, `A_k ∝ exp(log A + P_k Q_kᵀ)`.

    Raises:
        CircuitError: a size is out of range, or nothing depends on the context.
    """

    def __init__(
        self,
        num_states: int,
        vocab_size: int,
        block_length: int,
        hidden_size: int,
        latent: str = "mlp",
        latent_width: int = 64,
        roles: int = 16,
        role_rank: int = 16,
        adapter_width: int = 64,
        adapter_layers: int = 1,
        transition_bank: int = 0,
        transition_rank: int = 8,
    ) -> None:
        if latent not in LATENT:
            raise CircuitError(f"latent={latent} is not one of {', '.join(LATENT)}")
        sizes = {"hidden_size": hidden_size, "latent_width": latent_width, "role_rank": role_rank}
        sizes |= {"adapter_layers": adapter_layers, "transition_rank": transition_rank}
        for name, size in sizes.items():
            if size < 1:
                raise CircuitError(f"{name} must be at least 1, not {size}")
        if roles < 0 or (roles and num_states % roles):
            raise CircuitError(f"roles={roles} must divide num_states={num_states}, or be 0 for none")
        if adapter_width < 0 or adapter_width % HEAD_WIDTH:
            raise CircuitError(
                f"adapter_width={adapter_width} must be a multiple of {HEAD_WIDTH} (the width of a head), or 0 for none"
            )
        if transition_bank < 0 or transition_bank == 1:
            raise CircuitError(f"transition_bank={transition_bank} must be at least 2, or 0 for one table")
        if latent == "none" and not roles and not transition_bank:
            named = "latent=none with roles=0 and transition_bank=0"
            raise CircuitError(f"{named}: nothing would depend on the context; use circuit=hmm")
        self._options: dict[str, Any] = {
            "hidden_size": hidden_size,
            "latent": latent,
            "latent_width": latent_width,
            "roles": roles,
            "role_rank": role_rank,
            "adapter_width": adapter_width,
            "adapter_layers": adapter_layers,
            "transition_bank": transition_bank,
            "transition_rank": transition_rank,
        }
        super().__init__(num_states, vocab_size, block_length)
        self.hidden_size = hidden_size
        self.num_roles = roles
        self.reads = Reads.EVERYTHING_BEFORE if adapter_width else Reads.BLOCK
        self.features: Adapter | PlainFeatures = PlainFeatures(hidden_size)
        if adapter_width:
            self.features = Adapter(hidden_size, block_length, adapter_width, adapter_layers)
        self.latent_potentials = latent_potentials(latent, self.features.size, num_states, latent_width)
        self.emission_roles: nn.Module | None = None
        if roles:
            self.emission_roles = EmissionRoles(self.features.size, vocab_size, roles, role_rank)
        self.mixes: nn.Linear | None = None  # log w, of the tables of the bank
        if transition_bank:
            self.mixes = zero(nn.Linear(self.features.size, transition_bank))
            self.bank_from = nn.Parameter(torch.zeros(num_states, transition_bank, transition_rank))  # P
            self.bank_to = nn.Parameter(torch.empty(num_states, transition_bank, transition_rank).normal_())  # Q

    def config(self) -> dict[str, Any]:
        without = {key: value for key, value in super().config().items() if key != "homogeneous"}
        return {**without, **self._options}

    def state_of(self, latents: Tensor, evidence: Evidence) -> Tensor:
        return latents // self._tables_mixed(evidence)

    def by_state(self) -> list[Tensor]:
        found = super().by_state()
        if self.latent_potentials is not None:
            last = [module for module in self.latent_potentials.modules() if isinstance(module, nn.Linear)][-1]
            found += [last.weight, last.bias]
        return found if self.mixes is None else [*found, self.bank_from, self.bank_to]

    def prepare(self, evidence: Evidence) -> Evidence:
        context = evidence.context
        if context is None:
            return evidence
        self._check_evidence(evidence)
        require_context(context, evidence, self.hidden_size, self.reads)
        with torch.autocast(evidence.tokens.device.type, enabled=False):  # so does every sum of a circuit
            features = self.features(context, evidence.soft.float().mean(-1))
            potentials = evidence.latent_potentials
            if self.latent_potentials is not None:
                found = self.latent_potentials(features)
                if evidence.absent is not None:  # nothing is there for a potential to speak of
                    found = found.masked_fill(evidence.absent[..., None], 0.0)
                potentials = found if potentials is None else potentials + found
            if self.mixes is not None:
                log_weights = self.mixes(features).log_softmax(-1)
                each = log_weights.new_zeros(()) if potentials is None else potentials
                states = each.expand(*features.shape[:2], self.num_states)
                potentials = (states[..., None] + log_weights[..., None, :]).flatten(2)
            roles = evidence.roles
            if self.emission_roles is not None:
                roles = self.emission_roles(features, evidence)
        return dataclasses.replace(evidence, latent_potentials=potentials, roles=roles, context=None)

    def expected_counts(self, evidence: Evidence, weights: Tensor | None = None) -> dict[str, Tensor]:
        if self.mixes is not None:  # tables alone are counted, and there is one of transitions
            evidence = dataclasses.replace(evidence, context=None, latent_potentials=None)
        return super().expected_counts(evidence, weights)

    def _tables_for(self, evidence: Evidence) -> Tables:
        tables = self._tables()
        if self._tables_mixed(evidence) == 1:
            return tables
        changes = torch.einsum("nkr,mkr->knm", self.bank_from, self.bank_to)
        return banked(tables, (self.transition_logits + changes).softmax(-1, dtype=tables.dtype))

    def _tables_mixed(self, evidence: Evidence) -> int:
        """How many tables of transitions prepared evidence mixes: 1 where it had no context."""
        potentials = evidence.latent_potentials
        return 1 if potentials is None else potentials.shape[-1] // self.num_states

    def _chain(self, tables: Tables, scores: Tensor) -> Chain:
        if "bank" not in tables.latent:
            return super()._chain(tables, scores)
        transitions = tables.prepared.setdefault("bank", BankTransitions(tables.latent["bank"]))
        return Chain(tables.latent["initial"], transitions, scores)
