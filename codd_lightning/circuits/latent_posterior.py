"""A latent circuit conditioned on evidence: samples, marginals, max-product, and one token known after another."""

import copy
import dataclasses

import torch
from torch import Tensor
from torch.nn import functional as F

from codd_lightning.circuits.circuit import Circuit
from codd_lightning.circuits.errors import CircuitError
from codd_lightning.circuits.evidence import Evidence
from codd_lightning.circuits.messages import Messages
from codd_lightning.circuits.posterior import Mode, Posterior, normalized
from codd_lightning.circuits.roles import of_states
from codd_lightning.circuits.scaling import normalize, rescale, safe
from codd_lightning.circuits.tables import Tables, emission_entropy


class LatentPosterior(Posterior):
    """Posterior of a latent circuit: messages between states, and the evidence between states and tokens."""

    def __init__(
        self, circuit: Circuit, tables: Tables, evidence: Evidence, scores: Tensor, messages: Messages
    ) -> None:
        self.circuit = circuit
        self._tables = tables
        self._evidence = evidence
        self._scores = scores  # (B, L, N), changed in place by `condition`
        self._messages = messages
        self.num_draws = messages.num_draws
        self._tokens = evidence.tokens.clone()
        self._observed = evidence.observed.clone() if evidence.absent is None else evidence.observed & ~evidence.absent
        potentials = evidence.latent_potentials
        self._potentials = None if potentials is None else potentials.detach().to(scores.dtype).softmax(-1)
        self._among: Tensor | None = None  # (B, L, K, N): emissions of the candidates, once they are asked for

    @property
    def evidence(self) -> Evidence:
        absent = None if self._evidence.absent is None else self._evidence.absent & ~self._observed
        observed = self._observed if absent is None else self._observed | (self._evidence.observed & absent)
        evidence = self._evidence
        if evidence.roles is not None:  # what roles make of the tokens that have become known
            evidence = evidence.clamp(self._tokens, self._observed)
        return dataclasses.replace(evidence, tokens=self._tokens, observed=observed, absent=absent)

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
        read = self._evidence.read_by(self._role_of(latents))
        return self._known_or(self._tables.token_distribution(latents) * read.dense_weights(), None)

    @torch.no_grad()
    @torch.autocast("cpu", enabled=False)
    def token_marginals(self, positions: Tensor | None = None) -> Tensor:
        return self._tokens_of(self._states(positions), positions)

    @torch.no_grad()
    @torch.autocast("cpu", enabled=False)
    def tokens_of(self, states: Tensor) -> Tensor:
        """`(B, L, V)`: what `(B, L, N)` weights of the states, of which no position's own score is part, say of it."""
        if self._potentials is not None:
            states = states * self._potentials
        return self._tokens_of(states, None)

    @torch.no_grad()
    @torch.autocast("cpu", enabled=False)
    def candidate_distribution(self, latents: Tensor) -> Tensor:
        candidates = self._evidence.candidates
        if candidates is None:
            return self.token_distribution(latents)
        read = self._evidence.read_by(self._role_of(latents))
        return _normalized(self._tables.emission_of_states(candidates, latents) * read.weights)

    @torch.no_grad()
    @torch.autocast("cpu", enabled=False)
    def candidate_marginals(self, positions: Tensor | None = None) -> Tensor:
        if self._evidence.candidates is None:
            return self.token_marginals(positions)
        states, among = self._states(positions), self._candidate_emission()
        at: slice | tuple[Tensor, Tensor] = slice(None)
        if positions is not None:
            at = (torch.arange(len(positions), device=positions.device), positions)
        mass = [
            torch.matmul(among[at][..., part], states[..., part, None]).squeeze(-1) * read.weights[at]
            for _, read, part in self._tables.readings(self._evidence)
        ]
        return _normalized(_sum(mass))

    def _role_of(self, latents: Tensor) -> Tensor:
        """`(B, L)`: the roles of states; all 0 where there are none."""
        roles = self._evidence.roles
        size = self._scores.shape[-1] // (1 if roles is None else roles.count)
        return latents // size

    def _states(self, positions: Tensor | None) -> Tensor:
        """What the rest says of each position's state: `(B, L, N)`, or `(B, N)` of one position per row."""
        if positions is not None:
            self._check_position(positions)
        states = self._messages.outside(positions)
        if self._potentials is None:
            return states
        rows = torch.arange(len(states), device=states.device)
        return states * (self._potentials if positions is None else self._potentials[rows, positions])

    def _candidate_emission(self) -> Tensor:
        if self._among is None:
            candidates = self._evidence.candidates
            assert candidates is not None, "asked only where there are some"
            rows, positions = torch.ones_like(candidates[..., 0]).nonzero(as_tuple=True)
            among = self._tables.emission_among(candidates.flatten(0, 1), rows, positions)
            self._among = among.unflatten(0, candidates.shape[:2])
        return self._among

    @torch.no_grad()
    @torch.autocast("cpu", enabled=False)
    def condition(self, row: Tensor | int, position: Tensor | int, token: Tensor | int) -> None:
        device = self._tokens.device
        row, position, token = (torch.as_tensor(x, device=device).reshape(-1) for x in (row, position, token))
        if not len(row):
            return
        self._check_position(position)
        for name, value, size in (("rows", row, len(self._scores)), ("tokens", token, self.circuit.vocab_size)):
            if int(value.min()) < 0 or int(value.max()) >= size:
                raise CircuitError(f"{name} must lie in [0, {size}), not in [{int(value.min())}, {int(value.max())}]")
        scores = self._tables.score_of(token, row, position)
        if self._evidence.roles is not None:
            scores = scores * self._as_roles_read(row, position, token)
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
        log_scores = self._tables.log_scores_of_known(evidence).clone()
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
        chosen._tables = self._tables.rows(index)
        for name in ("_scores", "_tokens", "_observed"):
            setattr(chosen, name, getattr(self, name)[index])
        chosen._potentials = None if self._potentials is None else self._potentials[index]
        chosen._among = None if self._among is None else self._among[index]
        return chosen

    def _check_position(self, position: Tensor) -> None:
        length = self._scores.shape[1]
        if int(position.min()) < 0 or int(position.max()) >= length:
            low, high = int(position.min()), int(position.max())
            raise CircuitError(f"positions must lie in [0, {length}), not in [{low}, {high}]")

    def _as_roles_read(self, row: Tensor, position: Tensor, token: Tensor) -> Tensor:
        """`(M, N)`: weights of M tokens as the states' roles read them; 1 where the position was not soft."""
        roles = self._evidence.roles
        assert roles is not None, "asked only of evidence with roles"
        weights = roles.weight_of(token, self._evidence.token_ids, (row, position))
        weights = torch.where(self._evidence.soft[row, position][:, None], weights, 1.0)
        return of_states(weights.to(self._scores.dtype), self._scores.shape[-1])

    def _tokens_of(self, states: Tensor, positions: Tensor | None) -> Tensor:
        mass = [
            tables.token_mixture(states[..., part], positions) * read.dense_weights(positions)
            for tables, read, part in self._tables.readings(self._evidence)
        ]
        return self._known_or(_sum(mass), positions)

    def _known_or(self, mass: Tensor, positions: Tensor | None) -> Tensor:
        """Token probabilities of `(B, L, V)` (or `(B, V)`, at `positions`) mass; those of known tokens are 1."""
        at: slice | tuple[Tensor, Tensor] = slice(None)
        if positions is not None:
            at = (torch.arange(len(positions), device=positions.device), positions)
        known = F.one_hot(self._tokens[at], mass.shape[-1]).to(mass.dtype)
        return _normalized(torch.where(self._observed[at][..., None], known, mass))


def _sum(parts: list[Tensor]) -> Tensor:
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


def _normalized(mass: Tensor) -> Tensor:
    return mass / safe(mass.sum(-1, keepdim=True))
