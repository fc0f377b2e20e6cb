"""Circuits whose tokens are independent given one latent state per position."""

import copy
import dataclasses
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from codd_lightning.circuits.circuit import Circuit, Mode, Posterior, normalized
from codd_lightning.circuits.errors import CircuitError, EvidenceError
from codd_lightning.circuits.evidence import Evidence
from codd_lightning.circuits.scaling import modulate, normalize, normalize_log, rescale, safe
from codd_lightning.circuits.tables import Tables, emission_entropy

# Emission logits start with this standard deviation. Smaller ones start on a saddle: states that are
# alike get alike gradients, and stay alike.
EMISSION_SPREAD = 1.0


class Messages(ABC):
    """What the positions of a block say of each other's states, given a score for each state at each position."""

    num_draws: int

    @abstractmethod
    def outside(self, positions: Tensor | None = None) -> Tensor:
        """What all other positions say of a state, up to a factor.

        Args:
            positions: `(B,)` long, one per row; all if None.

        Returns:
            `(B, L, N)` or `(B, N)`.
        """

    @abstractmethod
    def change(self, rows: Tensor, positions: Tensor, scores: Tensor) -> None:
        """Puts `(M, N)` scores in the place of those of M different (row, position) pairs."""

    @abstractmethod
    def sample(self, uniforms: Tensor) -> Tensor:
        """`(B, L)` states drawn from their posterior with `(B, num_draws)` uniforms."""

    @abstractmethod
    def mode(self, log_scores: Tensor) -> tuple[Tensor, Tensor]:
        """The best states under other `(B, L, N)` scores, and their log mass: `(B, L)`, `(B,)`."""

    @abstractmethod
    def entropy(self) -> Tensor:
        """`(B,)` nats, of all latent states together."""

    @abstractmethod
    def rows(self, index: Tensor) -> "Messages":
        """Those of some rows, independent of these."""


class LatentCircuit(Circuit):
    """`p_ω(x) = Σ_z p(z) Π_i E(z_i, x_i)`; a structure adds `p(z)`.

    Args:
        num_states: N, latent states of a position.
        vocab_size: V.
        block_length: the most positions that a block may have.
        homogeneous: whether all positions share one emission.

    Raises:
        CircuitError: a size is not positive.
    """

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
        tables = self._tables()
        scores, log_scales = self._scores(tables, evidence)
        _require_mass(log_scales)
        return self._log_normalizer(tables, scores) + log_scales.sum(-1)

    def _log_sum(self, evidence: Evidence) -> Tensor:
        return self._log_sum_of(self._tables(), evidence)

    def _log_sum_of(self, tables: Tables, evidence: Evidence) -> Tensor:
        scores, log_scales = self._scores(tables, evidence)
        return self._log_normalizer(tables, scores) + log_scales.sum(-1)

    def posterior(self, evidence: Evidence) -> Posterior:
        tables = self._tables()
        scores, log_scales = self._scores(tables, evidence)
        _require_mass(log_scales)
        with torch.no_grad():
            return LatentPosterior(self, tables, evidence, scores.detach())

    def expected_counts(self, evidence: Evidence, weights: Tensor | None = None) -> dict[str, Tensor]:
        with torch.enable_grad():
            leaves = {
                name: self._parameter(name).detach().log_softmax(dim).requires_grad_()
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
        if potentials is not None and potentials.shape[-1] != self.num_states:
            raise CircuitError(
                f"latent_potentials over {potentials.shape[-1]} states do not fit a circuit of {self.num_states}"
            )
        soft = evidence.soft
        with torch.autocast(evidence.tokens.device.type, enabled=False):  # sums over V need float32
            scores, log_scales = normalize_log(tables.log_emission_of(evidence.tokens))
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
        log_normalizer = self.emission_logits.logsumexp(1)  # (P, N)
        return Tables(
            latent={
                name: self._parameter(name).softmax(dim) for name, dim in self.tables.items() if name != "emission"
            },
            emission=(self.emission_logits - log_normalizer[:, None]).exp(),
            emission_logits=self.emission_logits,
            log_normalizer=log_normalizer,
        )


class LatentPosterior(Posterior):
    """Posterior of a latent circuit: messages between states, and the evidence between states and tokens."""

    def __init__(self, circuit: LatentCircuit, tables: Tables, evidence: Evidence, scores: Tensor) -> None:
        self.circuit: LatentCircuit = circuit
        self._tables = tables
        self._evidence = evidence
        self._scores = scores.clone()  # (B, L, N)
        self._messages = circuit._messages(tables, self._scores)
        self.num_draws = self._messages.num_draws
        self._tokens = evidence.tokens.clone()
        self._observed = evidence.observed.clone() if evidence.absent is None else evidence.observed & ~evidence.absent
        potentials = evidence.latent_potentials
        self._potentials = None if potentials is None else potentials.detach().to(scores.dtype).softmax(-1)

    @property
    def evidence(self) -> Evidence:
        absent = None if self._evidence.absent is None else self._evidence.absent & ~self._observed
        observed = self._observed if absent is None else self._observed | (self._evidence.observed & absent)
        return dataclasses.replace(self._evidence, tokens=self._tokens, observed=observed, absent=absent)

    @torch.no_grad()
    @torch.autocast("cpu", enabled=False)
    def sample_latents(self, generator: torch.Generator | None = None, uniforms: Tensor | None = None) -> Tensor:
        shape = (len(self._scores), self.num_draws)
        if uniforms is not None and tuple(uniforms.shape) != shape:
            raise CircuitError(f"uniforms must have shape {shape}, not {tuple(uniforms.shape)}")
        if uniforms is None:
            uniforms = torch.rand(shape, generator=generator, dtype=self._scores.dtype).to(self._scores.device)
        return self._messages.sample(uniforms)

    @torch.no_grad()
    @torch.autocast("cpu", enabled=False)
    def token_distribution(self, latents: Tensor) -> Tensor:
        length = latents.shape[1]
        emission = self._tables.emission[:length].expand(length, -1, -1)
        places = torch.arange(length, device=latents.device)
        return self._weigh(emission[places, :, latents], None)

    @torch.no_grad()
    @torch.autocast("cpu", enabled=False)
    def token_marginals(self, positions: Tensor | None = None) -> Tensor:
        emission = self._tables.emission
        if positions is not None:
            self._check_position(positions)
        states = self._messages.outside(positions)
        if self._potentials is not None:
            rows = torch.arange(len(states), device=states.device)
            states = states * (self._potentials if positions is None else self._potentials[rows, positions])
        if len(emission) == 1:
            return self._weigh(states @ emission[0].T, positions)
        if positions is None:
            return self._weigh(torch.einsum("bln,lvn->blv", states, emission[: states.shape[1]]), None)
        return self._weigh(torch.einsum("bn,bvn->bv", states, emission[positions]), positions)

    @torch.no_grad()
    @torch.autocast("cpu", enabled=False)
    def condition(self, row: Tensor | int, position: Tensor | int, token: Tensor | int) -> None:
        device = self._tokens.device
        row, position, token = (torch.as_tensor(x, device=device).reshape(-1) for x in (row, position, token))
        if not len(row):
            return
        emission = self._tables.emission
        self._check_position(position)
        for name, value, size in (("rows", row, len(self._scores)), ("tokens", token, emission.shape[1])):
            if int(value.min()) < 0 or int(value.max()) >= size:
                raise CircuitError(f"{name} must lie in [0, {size}), not in [{int(value.min())}, {int(value.max())}]")
        scores = emission[position if len(emission) > 1 else torch.zeros_like(position), token]  # (M, N)
        if self._potentials is not None:
            scores = scores * self._potentials[row, position]
        scores, _ = normalize(scores)
        self._scores[row, position] = scores
        self._messages.change(row, position, scores)
        self._tokens[row, position] = token
        self._observed[row, position] = True

    @torch.no_grad()
    @torch.autocast("cpu", enabled=False)
    def mode(self) -> Mode:
        evidence = self.evidence
        soft = evidence.soft
        log_scores = self._tables.log_emission_of(evidence.tokens).clone()
        choice = evidence.tokens[..., None].expand(log_scores.shape).clone()  # (B, L, N): the best token of each state
        if bool(soft.any()):
            values, choice[soft] = self._tables.largest(evidence)
            log_scores[soft] = values.log()
        if evidence.absent is not None:
            log_scores = log_scores.masked_fill(evidence.absent[..., None], 0.0)
            choice = choice.masked_fill(evidence.absent[..., None], 0)
        if evidence.latent_potentials is not None:
            log_scores = log_scores + evidence.latent_potentials.to(log_scores.dtype)
        latents, log_mass = self._messages.mode(log_scores)
        tokens = choice.gather(-1, latents[..., None]).squeeze(-1)
        return Mode(latents, tokens, normalized(log_mass, self.circuit.log_partition(evidence)))

    @torch.no_grad()
    @torch.autocast("cpu", enabled=False)
    def entropy(self) -> Tensor:
        evidence = self.evidence
        states, soft = self.state_marginals(), evidence.soft
        of_tokens = states.new_zeros(states.shape[:2])
        if bool(soft.any()):
            of_tokens[soft] = (states[soft] * emission_entropy(self._tables, evidence)).sum(-1)
        return self._messages.entropy() + of_tokens.sum(-1)

    @torch.no_grad()
    def state_marginals(self) -> Tensor:
        """`p̂(z_i)`, `(B, L, N)`."""
        return rescale(self._messages.outside() * self._scores)[1]

    def rows(self, index: Tensor) -> "LatentPosterior":
        chosen = copy.copy(self)
        chosen._evidence = self._evidence.rows(index)
        chosen._messages = self._messages.rows(index)
        for name in ("_scores", "_tokens", "_observed"):
            setattr(chosen, name, getattr(self, name)[index])
        chosen._potentials = None if self._potentials is None else self._potentials[index]
        return chosen

    def _check_position(self, position: Tensor) -> None:
        length = self._scores.shape[1]
        if int(position.min()) < 0 or int(position.max()) >= length:
            low, high = int(position.min()), int(position.max())
            raise CircuitError(f"positions must lie in [0, {length}), not in [{low}, {high}]")

    def _weigh(self, emitted: Tensor, positions: Tensor | None) -> Tensor:
        """Token probabilities from `(B, L, V)` (or `(B, V)`, at `positions`) emission mass, by the evidence."""
        at: slice | tuple[Tensor, Tensor] = slice(None)
        if positions is not None:
            at = (torch.arange(len(positions), device=positions.device), positions)
        known = F.one_hot(self._tokens[at], emitted.shape[-1]).to(emitted.dtype)
        weights = self._evidence.dense_weights(positions)
        weighed = torch.where(self._observed[at][..., None], known, emitted * weights)
        return weighed / safe(weighed.sum(-1, keepdim=True))


def _require_mass(log_scales: Tensor) -> None:
    hopeless = log_scales == -torch.inf
    if bool(hopeless.any()):
        row, position = hopeless.nonzero()[0].tolist()
        raise EvidenceError(
            f"row {row}, position {position}: no token has weight under both the evidence and the circuit"
        )
