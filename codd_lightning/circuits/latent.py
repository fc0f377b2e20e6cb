"""Circuits whose tokens are independent given one latent state per position."""

from abc import abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from codd_lightning.circuits.circuit import Circuit
from codd_lightning.circuits.errors import CircuitError, EvidenceError
from codd_lightning.circuits.evidence import Evidence
from codd_lightning.circuits.latent_posterior import LatentPosterior
from codd_lightning.circuits.messages import Messages
from codd_lightning.circuits.posterior import Posterior
from codd_lightning.circuits.scaling import modulate, normalize, normalize_log
from codd_lightning.circuits.tables import Tables, normalized_emission

# Emission logits start with this standard deviation. Smaller ones start on a saddle: states that are
# alike get alike gradients, and stay alike.
EMISSION_SPREAD = 1.0


class LatentCircuit(Circuit):
    """`p_ω(x) = Σ_z p(z) Π_i E(z_i, x_i)`; a structure adds `p(z)`.

    Args:
        num_states: N, latent states of a position.
        vocab_size: V.
        block_length: the most positions that a block may have.
        homogeneous: whether all positions share one emission.

    Attributes:
        spreads: standard deviations of the starting logits of each table.

    Raises:
        CircuitError: a size is not positive.
    """

    spreads: ClassVar[dict[str, float]]

    def __init__(self, num_states: int, vocab_size: int, block_length: int, homogeneous: bool) -> None:
        super().__init__()
        for name, size in (("num_states", num_states), ("vocab_size", vocab_size), ("block_length", block_length)):
            if size < 1:
                raise CircuitError(f"{name} must be at least 1, not {size}")
        self.num_states = num_states
        self.vocab_size = vocab_size
        self.block_length = block_length
        self.homogeneous = homogeneous
        self.emission_logits = nn.Parameter(torch.empty(1 if homogeneous else block_length, vocab_size, num_states))
        self._cache: tuple[object, Tables] | None = None

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draws random starting parameters, table by table, with the standard deviations of `spreads`."""
        with torch.no_grad():
            for name in self.tables:
                self._parameter(name).normal_(0.0, self.spreads[name], generator=generator)

    @torch.no_grad()
    def forget_tokens(self) -> None:
        """Makes all tokens equally likely in every state."""
        self.emission_logits.zero_()

    def config(self) -> dict[str, Any]:
        return {"num_states": self.num_states, "vocab_size": self.vocab_size, "block_length": self.block_length}

    @abstractmethod
    def _log_normalizer(self, tables: Tables, scores: Tensor) -> Tensor:
        """`(B,)` nats: log of the sum over states of `p(z) Π_i scores[i, z_i]`, for `(B, L, N)` scores."""

    @abstractmethod
    def _messages(self, tables: Tables, scores: Tensor) -> Messages:
        """The messages of a structure under `(B, L, N)` scores."""

    def log_prob(self, tokens: Tensor) -> Tensor:
        self._check_tokens(tokens)
        tables = self._tables()
        scores, log_scales = normalize_log(tables.log_emission_of(tokens))
        return self._log_normalizer(tables, scores) + log_scales.sum(-1)

    def log_partition(self, evidence: Evidence) -> Tensor:
        evidence = self.prepare(evidence)
        tables = self._tables_for(evidence)
        scores, log_scales = self._scores(tables, evidence)
        _require_mass(log_scales)
        return self._log_normalizer(tables, scores) + log_scales.sum(-1)

    def _log_sum(self, evidence: Evidence) -> Tensor:
        return self._log_sum_of(self._tables_for(evidence), evidence)

    def _log_sum_of(self, tables: Tables, evidence: Evidence) -> Tensor:
        scores, log_scales = self._scores(tables, evidence)
        return self._log_normalizer(tables, scores) + log_scales.sum(-1)

    def posterior(self, evidence: Evidence) -> Posterior:
        if not evidence.batch_size:
            raise CircuitError("evidence for no blocks leaves no posterior")
        evidence = self.prepare(evidence)
        tables = self._tables_for(evidence)
        scores, log_scales = self._scores(tables, evidence)
        _require_mass(log_scales)
        with torch.no_grad():
            scores = scores.detach()
            return LatentPosterior(self, tables, evidence, scores.clone(), self._messages(tables, scores))

    def expected_counts(self, evidence: Evidence, weights: Tensor | None = None) -> dict[str, Tensor]:
        self._check_weights(weights, evidence)
        evidence = self.prepare(evidence)
        dtype = torch.promote_types(self.emission_logits.dtype, torch.float32)
        with torch.enable_grad():
            leaves = {
                name: self._logits(name).detach().log_softmax(dim, dtype=dtype).requires_grad_()
                for name, dim in self.tables.items()
            }
            log_emission = leaves["emission"]
            emission = log_emission.exp()
            tables = Tables(
                latent={name: leaf.exp() for name, leaf in leaves.items() if name != "emission"},
                emission=emission,
                emission_logits=log_emission,
                log_normalizer=log_emission.new_zeros(len(log_emission), self.num_states),
                mass=emission.sum(1),
            )
            log_sums = self._log_sum_of(tables, evidence)
            total = log_sums.sum() if weights is None else (weights * log_sums).sum()
            counts = torch.autograd.grad(total, list(leaves.values()), allow_unused=True)
        return {
            name: torch.zeros_like(leaf) if count is None else count
            for (name, leaf), count in zip(leaves.items(), counts, strict=True)
        }

    def _scores(self, tables: Tables, evidence: Evidence) -> tuple[Tensor, Tensor]:
        """Scores of the states, `(B, L, N)`, at most 1, and the logs of what they were divided by, `(B, L)`."""
        self._check_evidence(evidence)
        potentials = evidence.latent_potentials
        num_states = tables.num_states
        if potentials is not None and potentials.shape[-1] != num_states:
            raise CircuitError(
                f"latent_potentials over {potentials.shape[-1]} states do not fit a circuit of {num_states}"
            )
        soft = evidence.soft
        with torch.autocast(evidence.tokens.device.type, enabled=False):  # sums over V need float32
            scores, log_scales = normalize_log(tables.log_scores_of_known(evidence))
            if bool(soft.any()):
                found = tables.expected(evidence)
                soft_scores, soft_scales = normalize(
                    found.new_ones(scores.shape).index_put(soft.nonzero(as_tuple=True), found)
                )
                scores = torch.where(soft[..., None], soft_scores, scores)
                log_scales = torch.where(soft, soft_scales, log_scales)
            if evidence.absent is not None:
                scores = scores.masked_fill(evidence.absent[..., None], 1.0)
                log_scales = log_scales.masked_fill(evidence.absent, 0.0)
            if potentials is not None:
                scores, scales = modulate(scores, potentials.to(scores.dtype))
                log_scales = log_scales + scales
        return scores, log_scales

    def _parameter(self, table: str) -> nn.Parameter:
        return self.get_parameter(f"{table}_logits")

    def _logits(self, table: str) -> Tensor:
        """A table's parameters, minus infinity where the structure has nothing."""
        return self._parameter(table)

    def _tables_for(self, evidence: Evidence) -> Tables:
        """The tables that prepared evidence is read with."""
        return self._tables()

    def _tables(self) -> Tables:
        """Normalised parameters; without gradients they are computed once per change of the parameters."""
        logits = [self._parameter(name) for name in self.tables]
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

    def _normalized(self) -> Tables:
        dtype = torch.promote_types(self.emission_logits.dtype, torch.float32)  # of all sums
        # gradients are summed in float32; what is only read stays in the type that it is stored in
        logits = self._logits("emission")
        logits = logits.to(dtype) if torch.is_grad_enabled() else logits
        log_normalizer, emission = normalized_emission(logits, dtype)
        latent = [name for name in self.tables if name != "emission"]
        return Tables(
            latent={name: self._logits(name).softmax(self.tables[name], dtype=dtype) for name in latent},
            emission=emission,
            emission_logits=logits,
            log_normalizer=log_normalizer,
        )


def _require_mass(log_scales: Tensor) -> None:
    hopeless = log_scales == -torch.inf
    if bool(hopeless.any()):
        row, position = hopeless.nonzero()[0].tolist()
        raise EvidenceError(
            f"row {row}, position {position}: no token has weight under both the evidence and the circuit"
        )
