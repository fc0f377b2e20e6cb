"""The hidden Markov model circuit of the paper: a chain of latent states that emit tokens."""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from codd_lightning.circuits.chain import Chain, ChainMessages, log_normalizer
from codd_lightning.circuits.circuit import register_circuit
from codd_lightning.circuits.errors import CircuitError
from codd_lightning.circuits.evidence import Evidence
from codd_lightning.circuits.latent import EMISSION_SPREAD, LatentCircuit
from codd_lightning.circuits.latent_posterior import LatentPosterior
from codd_lightning.circuits.tables import Tables
from codd_lightning.circuits.transitions import Transitions


@register_circuit("hmm")
class HMM(LatentCircuit):
    """Hidden Markov model over a block: `p_ω(x) = Σ_z π(z_1) Π A(z_i, z_{i+1}) Π E(z_i, x_i)`.

    Messages are normalised at every position and the logs of their normalisers added (scaled linear
    space; Rabiner & Juang, 1986, sec. V.A): exact, stable, one matrix product a position.

    Args:
        num_states: N, latent states.
        vocab_size: V.
        block_length: the most positions that a block may have.
        homogeneous: one transition and one emission for all positions; else one for each.

    Attributes:
        num_roles: groups of states that read evidence in their own way; 0 for none.

    Raises:
        CircuitError: a size is not positive.
    """

    tables: ClassVar[dict[str, int]] = {"initial": -1, "transition": -1, "emission": 1}
    num_roles = 0
    # Transitions start sparse, a few successors for each state: paths that share a state from the start are pulled
    # apart late or never, and what should be remembered along them is lost.
    spreads: ClassVar[dict[str, float]] = {"initial": 0.3, "transition": 3.0, "emission": EMISSION_SPREAD}

    def __init__(self, num_states: int, vocab_size: int, block_length: int, homogeneous: bool = True) -> None:
        super().__init__(num_states, vocab_size, block_length, homogeneous)
        steps = 1 if homogeneous else block_length - 1
        self.initial_logits = nn.Parameter(torch.empty(num_states))
        self.transition_logits = nn.Parameter(torch.empty(steps, num_states, num_states))
        self.reset_parameters()

    @classmethod
    def from_probabilities(cls, initial: Tensor, transition: Tensor, emission: Tensor, block_length: int) -> "HMM":
        """A circuit with given, fixed probabilities (`requires_grad` is off); zeros are allowed.

        Args:
            initial: `(N,)`.
            transition: `(N, N)`, or `(L - 1, N, N)` for one per position.
            emission: `(N, V)`, or `(L, N, V)` for one per position.
            block_length: L.

        Raises:
            CircuitError: shapes disagree, or a distribution has a negative entry or does not sum to 1.
        """
        homogeneous = emission.dim() == 2
        places, steps = ((), ()) if homogeneous else ((block_length,), (block_length - 1,))
        num_states, vocab_size = emission.shape[-2:] if emission.dim() >= 2 else (0, 0)
        for name, value, shape in (
            ("initial", initial, (num_states,)),
            ("transition", transition, (*steps, num_states, num_states)),
            ("emission", emission, (*places, num_states, vocab_size)),
        ):
            if tuple(value.shape) != shape:
                raise CircuitError(f"{name} must have shape {shape}, not {tuple(value.shape)}")
            if value.numel() and (
                bool((value < 0).any()) or not torch.allclose(value.sum(-1), value.new_ones(()), atol=1e-4)
            ):
                raise CircuitError(f"{name} must be distributions over its last dimension: entries >= 0 that sum to 1")
        circuit = cls(num_states, vocab_size, block_length, homogeneous).to(emission.dtype)
        with torch.no_grad():
            circuit.initial_logits.copy_(initial.log())
            circuit.transition_logits.copy_(transition.log().reshape(circuit.transition_logits.shape))
            circuit.emission_logits.copy_(emission.log().transpose(-1, -2).reshape(circuit.emission_logits.shape))
        return circuit.requires_grad_(False)

    def config(self) -> dict[str, Any]:
        return {**super().config(), "homogeneous": self.homogeneous}

    def probabilities(self) -> tuple[Tensor, Tensor, Tensor]:
        """Initial `(N,)`, transition `(N, N)`, emission `(N, V)`; inhomogeneous `(L-1, N, N)` and `(L, N, V)`."""
        tables = self._tables()
        initial, transition = tables.latent["initial"], tables.latent["transition"]
        emission = tables.emission.transpose(-1, -2)
        return (initial, transition[0], emission[0]) if self.homogeneous else (initial, transition, emission)

    def _log_normalizer(self, tables: Tables, scores: Tensor) -> Tensor:
        return log_normalizer(self._chain(tables, scores))

    def _messages(self, tables: Tables, scores: Tensor) -> ChainMessages:
        return ChainMessages(self._chain(tables, scores.clone()))

    @torch.no_grad()
    def expected_after(self, evidence: Evidence, latents: Tensor) -> tuple[Tensor, Tensor]:
        """What the latent state before lets expect of each position.

        Args:
            evidence: of the blocks.
            latents: `(B, L)`; the last of them is not asked.

        Returns:
            `P(state_i | z_{i-1}, evidence)`, `(B, L, N)`, and `P(x_i | z_{i-1}, evidence)`, `(B, L, V)`; zeros where
            nothing can follow, or what can is too small for the type.
        """
        evidence = self.prepare(evidence)
        tables = self._tables_for(evidence)
        scores, _ = self._scores(tables, evidence)
        messages = self._messages(tables, scores)
        weights = messages.after(latents)
        tokens = LatentPosterior(self, tables, evidence, scores, messages).tokens_of(weights)
        weights = weights * scores
        weights /= weights.sum(-1, keepdim=True).clamp_min(torch.finfo(weights.dtype).tiny)
        labels = self.state_of(torch.arange(weights.shape[-1], device=weights.device), evidence)
        return weights.new_zeros(*weights.shape[:2], self.num_states).index_add_(2, labels, weights), tokens

    def state_of(self, latents: Tensor, evidence: Evidence) -> Tensor:
        """Which of the N states latent states stand for that were drawn under prepared evidence."""
        return latents

    @property
    def state_groups(self) -> list[Tensor]:
        """Groups of states that are alike in kind: only within one may a state become a copy of another."""
        return list(torch.arange(self.num_states).chunk(max(self.num_roles, 1)))

    def by_state(self) -> list[Tensor]:
        """Views of the parameters that belong to states, each with all states or the first along its first dimension.

        Columns of the transitions, what leads to a state, are not among them.
        """
        return [self.initial_logits, *self.transition_logits, *(table.T for table in self.emission_logits)]

    def take_states(self, source: Tensor) -> None:
        """Each state n becomes what state `source[n]`, one of its group, was; in place, without gradients."""
        for parameter in self.by_state():
            parameter.copy_(parameter[source[: len(parameter)]])
        for table in self.transition_logits:
            table.copy_(table[:, source])

    def arranged(self, said: Tensor) -> Tensor:
        """Which state each place suits by what states say, where places differ, `(N,)` long.

        Args:
            said: `(N, W)`, how often each state emits each of some tokens.
        """
        return torch.arange(len(said), device=said.device)

    def _chain(self, tables: Tables, scores: Tensor) -> Chain:
        # packed once for as long as the tables stand
        transitions = tables.prepared.setdefault("transitions", Transitions(tables.latent["transition"]))
        return Chain(tables.latent["initial"], transitions, scores)
