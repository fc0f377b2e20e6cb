"""The hidden Markov model circuit of the paper: a chain of latent states that emit tokens."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from codd_lightning.circuits.circuit import Circuit, register_circuit
from codd_lightning.circuits.errors import CircuitError, EvidenceError
from codd_lightning.circuits.evidence import Evidence
from codd_lightning.circuits.hmm_posterior import HMMPosterior
from codd_lightning.circuits.messages import Chain, log_normalizer, modulate, normalize, normalize_log

# Starting logits are drawn with these standard deviations. Smaller ones start on a saddle: states that
# are alike get alike gradients, and stay alike.
INITIAL_SPREAD, TRANSITION_SPREAD, EMISSION_SPREAD = 0.3, 2.0, 1.0


@dataclass(frozen=True)
class HMMProbabilities:
    """Parameters in the form that the recursions use; `P` is 1 (homogeneous) or the block length.

    Attributes:
        initial: `(N,)`.
        transition: `(1 or P - 1, N, N)`, rows sum to 1.
        emission: `(P, V, N)`, columns sum to 1 over V.
        log_normalizer: `(P, N)`, of the emission logits over V.
    """

    initial: Tensor
    transition: Tensor
    emission: Tensor
    log_normalizer: Tensor


@register_circuit("hmm")
class HMM(Circuit):
    """Hidden Markov model over a block: `p_ω(x) = Σ_z π(z_1) Π A(z_i, z_{i+1}) Π E(z_i, x_i)`.

    Messages are normalised at every position and the logs of their normalisers added (scaled linear
    space; Rabiner & Juang, 1986, sec. V.A): exact, stable, one matrix product a position.

    Args:
        num_states: N, latent states.
        vocab_size: V.
        block_length: the most positions that a block may have.
        homogeneous: one transition and one emission for all positions; else one for each.

    Raises:
        CircuitError: a size is not positive.
    """

    def __init__(self, num_states: int, vocab_size: int, block_length: int, homogeneous: bool = True) -> None:
        super().__init__()
        for name, size in (("num_states", num_states), ("vocab_size", vocab_size), ("block_length", block_length)):
            if size < 1:
                raise CircuitError(f"{name} must be at least 1, not {size}")
        self.num_states = num_states
        self.vocab_size = vocab_size
        self.block_length = block_length
        self.homogeneous = homogeneous
        steps = 1 if homogeneous else block_length - 1
        places = 1 if homogeneous else block_length
        self.initial_logits = nn.Parameter(torch.empty(num_states))
        self.transition_logits = nn.Parameter(torch.empty(steps, num_states, num_states))
        self.emission_logits = nn.Parameter(torch.empty(places, vocab_size, num_states))
        self._cache: tuple[object, HMMProbabilities] | None = None
        self.reset_parameters()

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draws random starting parameters, well away from the saddle where all states are alike."""
        with torch.no_grad():
            self.initial_logits.normal_(0.0, INITIAL_SPREAD, generator=generator)
            self.transition_logits.normal_(0.0, TRANSITION_SPREAD, generator=generator)
            self.emission_logits.normal_(0.0, EMISSION_SPREAD, generator=generator)

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
        return {
            "num_states": self.num_states,
            "vocab_size": self.vocab_size,
            "block_length": self.block_length,
            "homogeneous": self.homogeneous,
        }

    def probabilities(self) -> tuple[Tensor, Tensor, Tensor]:
        """Initial `(N,)`, transition `(N, N)`, emission `(N, V)`; inhomogeneous `(L-1, N, N)` and `(L, N, V)`."""
        p = self._probabilities()
        emission = p.emission.transpose(-1, -2)
        return (p.initial, p.transition[0], emission[0]) if self.homogeneous else (p.initial, p.transition, emission)

    def log_prob(self, tokens: Tensor) -> Tensor:
        self._check_tokens(tokens)
        p = self._probabilities()
        return log_normalizer(Chain(p.initial, p.transition, *normalize_log(self._token_scores(tokens, p))))

    def log_partition(self, evidence: Evidence) -> Tensor:
        chain = self.chain(evidence)
        _require_mass(chain.log_scales)
        return log_normalizer(chain)

    def _log_sum(self, evidence: Evidence) -> Tensor:
        return log_normalizer(self.chain(evidence))

    def posterior(self, evidence: Evidence) -> HMMPosterior:
        chain = self.chain(evidence)
        _require_mass(chain.log_scales)
        return HMMPosterior(chain, evidence, self._probabilities().emission)

    def chain(self, evidence: Evidence) -> Chain:
        """The chain that evidence makes of this circuit: its emission scores, one scale a position."""
        with torch.autocast(evidence.tokens.device.type, enabled=False):  # sums over V need float32
            return self._chain(evidence)

    def _chain(self, evidence: Evidence) -> Chain:
        self._check_evidence(evidence)
        p = self._probabilities()
        soft = evidence.soft
        scores, log_scales = normalize_log(self._token_scores(evidence.tokens, p))  # (B, L, N), (B, L)
        if bool(soft.any()):
            soft_scores, soft_scales = normalize(self._soft_scores(evidence, soft, p))
            scores = torch.where(soft[..., None], soft_scores, scores)
            log_scales = torch.where(soft, soft_scales, log_scales)
        if evidence.absent is not None:
            scores = scores.masked_fill(evidence.absent[..., None], 1.0)
            log_scales = log_scales.masked_fill(evidence.absent, 0.0)
        if evidence.latent_potentials is not None:
            if evidence.latent_potentials.shape[-1] != self.num_states:
                raise CircuitError(
                    f"latent_potentials over {evidence.latent_potentials.shape[-1]} states do not fit a circuit "
                    f"of {self.num_states}"
                )
            scores, scales = modulate(scores, evidence.latent_potentials.to(scores.dtype))
            log_scales = log_scales + scales
        return Chain(p.initial, p.transition, scores, log_scales)

    def _token_scores(self, tokens: Tensor, p: HMMProbabilities) -> Tensor:
        """`log E(n, x_i)`, `(B, L, N)`, by one gather from the logits."""
        rows = tokens if self.homogeneous else tokens + self.vocab_size * _arange(tokens.shape[1], tokens)
        logits = F.embedding(rows, self.emission_logits.flatten(0, 1))
        return logits - p.log_normalizer[: tokens.shape[1]]

    def _soft_scores(self, evidence: Evidence, soft: Tensor, p: HMMProbabilities) -> Tensor:
        """`Σ_v E(n, v) w_i(v)`, `(B, L, N)`, at soft positions; 1 elsewhere."""
        where = soft.nonzero(as_tuple=True)
        weights = evidence.weights[where].to(p.emission.dtype)  # (M, V) or (M, K)
        if evidence.token_ids is None or evidence.tail is None:
            found = self._dense_product(weights, where[1], p)
        else:
            # Σ_kept E w + tail (1 − Σ_kept E), in one pass over the kept rows: emissions sum to 1 over V
            tail = evidence.tail[where].to(p.emission.dtype)[:, None]
            ids = evidence.token_ids[where]
            if not self.homogeneous:
                ids = ids + self.vocab_size * where[1][:, None]
            kept = F.embedding_bag(
                ids, p.emission.flatten(0, 1), mode="sum", per_sample_weights=(weights - tail).contiguous()
            )
            found = (kept + tail).clamp_min(0.0)
        scores = found.new_ones(*soft.shape, self.num_states)
        return scores.index_put(where, found)

    def _dense_product(self, weights: Tensor, positions: Tensor, p: HMMProbabilities) -> Tensor:
        if self.homogeneous:
            return weights @ p.emission[0]
        found = weights.new_zeros(len(positions), self.num_states)
        for position in positions.unique().tolist():
            here = (positions == position).nonzero(as_tuple=True)
            found = found.index_put(here, weights[here] @ p.emission[position])
        return found

    def _probabilities(self) -> HMMProbabilities:
        """Normalised parameters; without gradients they are computed once per change of the parameters."""
        logits = (self.initial_logits, self.transition_logits, self.emission_logits)
        if torch.is_grad_enabled() and any(p.requires_grad for p in logits):
            self._cache = None  # parameters may change in ways that no version counts (DeepSpeed)
            return self._normalized()
        if any(p.is_inference() for p in logits):
            return self._normalized()
        key = tuple((p.data_ptr(), p._version, p.dtype, p.device) for p in logits)
        if self._cache is None or self._cache[0] != key:
            with torch.inference_mode(False), torch.no_grad():
                self._cache = (key, self._normalized())
        return self._cache[1]

    def _normalized(self) -> HMMProbabilities:
        log_normalizer = self.emission_logits.logsumexp(1)  # (P, N)
        return HMMProbabilities(
            initial=self.initial_logits.softmax(-1),
            transition=self.transition_logits.softmax(-1),
            emission=(self.emission_logits - log_normalizer[:, None]).exp(),
            log_normalizer=log_normalizer,
        )


def _arange(length: int, like: Tensor) -> Tensor:
    return torch.arange(length, device=like.device)


def _require_mass(log_scales: Tensor) -> None:
    hopeless = log_scales == -torch.inf
    if bool(hopeless.any()):
        row, position = hopeless.nonzero()[0].tolist()
        raise EvidenceError(
            f"row {row}, position {position}: no token has weight under both the evidence and the circuit"
        )
