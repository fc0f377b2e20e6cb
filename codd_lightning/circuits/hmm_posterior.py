"""An HMM conditioned on evidence: samples, marginals, and conditioning on one token after another."""

import torch
from torch import Tensor
from torch.nn import functional as F

from codd_lightning.circuits.categorical import draw
from codd_lightning.circuits.circuit import Posterior
from codd_lightning.circuits.errors import CircuitError
from codd_lightning.circuits.evidence import Evidence
from codd_lightning.circuits.messages import Chain, rescale


class HMMPosterior(Posterior):
    """Posterior of an HMM, computed lazily and kept across conditioning.

    The message that *reaches* a position from the left (what the earlier positions say of its state)
    and from the right do not depend on the position's own score, so that a token made known at
    position i leaves all left messages up to i and all right messages from i on as they were. Messages
    are filled in when a query asks for them: committing tokens from left to right costs one step each.
    """

    def __init__(self, chain: Chain, evidence: Evidence, emission: Tensor) -> None:
        self._chain = chain
        self._evidence = evidence
        self._emission = emission  # (1 or L, V, N)
        self._scores = chain.scores.detach().clone()  # (B, L, N)
        self._tokens = evidence.tokens.clone()
        self._observed = evidence.observed.clone() if evidence.absent is None else evidence.observed & ~evidence.absent
        potentials = evidence.latent_potentials
        self._potentials = None if potentials is None else potentials.detach().softmax(-1)
        self._left = torch.empty_like(self._scores)
        self._right = torch.empty_like(self._scores)
        self._left[:, 0] = chain.initial.detach()
        self._right[:, -1] = 1.0
        self._left_known, self._right_known = 1, chain.length - 1  # left[:known] and right[known:] hold

    @torch.no_grad()
    @torch.autocast("cpu", enabled=False)
    def sample_latents(self, generator: torch.Generator | None = None, uniforms: Tensor | None = None) -> Tensor:
        batch_size, length, _ = self._scores.shape
        if uniforms is not None and tuple(uniforms.shape) != (batch_size, length):
            raise CircuitError(f"uniforms must have shape {(batch_size, length)}, not {tuple(uniforms.shape)}")
        if uniforms is None:
            uniforms = torch.rand(batch_size, length, generator=generator, dtype=self._scores.dtype).to(
                self._scores.device
            )
        self._fill_left(length)
        latents = torch.empty_like(self._tokens)
        successor = torch.ones_like(self._scores[:, 0])  # P(z_{i+1} drawn | z_i)
        for position in reversed(range(length)):
            weights = self._left[:, position] * self._scores[:, position] * successor
            latents[:, position] = draw(weights, uniforms[:, position])
            if position:
                successor = self._chain.step(position - 1)[:, latents[:, position]].T
        return latents

    @torch.no_grad()
    @torch.autocast("cpu", enabled=False)
    def token_distribution(self, latents: Tensor) -> Tensor:
        emission = self._emission[: latents.shape[1]].expand(latents.shape[1], -1, -1)
        places = torch.arange(latents.shape[1], device=latents.device)
        return self._weigh(emission[places, :, latents], None)

    @torch.no_grad()
    @torch.autocast("cpu", enabled=False)
    def token_marginals(self, positions: Tensor | None = None) -> Tensor:
        length = self._chain.length
        if positions is None:
            self._fill_left(length)
            self._fill_right(0)
            states = self._left * self._right
            if self._potentials is not None:
                states = states * self._potentials
            if len(self._emission) == 1:
                return self._weigh(states @ self._emission[0].T, None)
            return self._weigh(torch.einsum("bln,lvn->blv", states, self._emission[:length]), None)
        self._check_position(positions)
        self._fill_left(int(positions.max()) + 1)
        self._fill_right(int(positions.min()))
        rows = torch.arange(len(positions), device=positions.device)
        states = self._left[rows, positions] * self._right[rows, positions]
        if self._potentials is not None:
            states = states * self._potentials[rows, positions]
        if len(self._emission) == 1:
            return self._weigh(states @ self._emission[0].T, positions)
        return self._weigh(torch.einsum("bn,bvn->bv", states, self._emission[positions]), positions)

    @torch.no_grad()
    @torch.autocast("cpu", enabled=False)
    def condition(self, row: Tensor | int, position: Tensor | int, token: Tensor | int) -> None:
        device = self._tokens.device
        row, position, token = (torch.as_tensor(x, device=device).reshape(-1) for x in (row, position, token))
        if not len(row):
            return
        self._check_position(position)
        for name, value, size in (("rows", row, len(self._scores)), ("tokens", token, self._emission.shape[1])):
            if int(value.min()) < 0 or int(value.max()) >= size:
                raise CircuitError(f"{name} must lie in [0, {size}), not in [{int(value.min())}, {int(value.max())}]")
        places = position if len(self._emission) > 1 else torch.zeros_like(position)
        scores = self._emission[places, token]  # (M, N)
        if self._evidence.latent_potentials is not None:
            scores = scores * self._evidence.latent_potentials[row, position].softmax(-1)
        self._scores[row, position] = scores / scores.amax(-1, keepdim=True).clamp_min(torch.finfo(scores.dtype).tiny)
        self._tokens[row, position] = token
        self._observed[row, position] = True
        self._left_known = min(self._left_known, int(position.min()) + 1)
        self._right_known = max(self._right_known, int(position.max()))

    def _check_position(self, position: Tensor) -> None:
        if int(position.min()) < 0 or int(position.max()) >= self._chain.length:
            low, high = int(position.min()), int(position.max())
            raise CircuitError(f"positions must lie in [0, {self._chain.length}), not in [{low}, {high}]")

    def _fill_left(self, until: int) -> None:
        for i in range(self._left_known, until):
            _, self._left[:, i] = rescale((self._left[:, i - 1] * self._scores[:, i - 1]) @ self._chain.step(i - 1))
        self._left_known = max(self._left_known, until)

    def _fill_right(self, since: int) -> None:
        for i in reversed(range(since, self._right_known)):
            _, self._right[:, i] = rescale((self._right[:, i + 1] * self._scores[:, i + 1]) @ self._chain.step(i).T)
        self._right_known = min(self._right_known, since)

    def _weigh(self, emitted: Tensor, positions: Tensor | None) -> Tensor:
        """Token probabilities from `(B, L, V)` (or `(B, V)`, at `positions`) emission mass, by the evidence."""
        at: slice | tuple[Tensor, Tensor] = slice(None)
        if positions is not None:
            at = (torch.arange(len(positions), device=positions.device), positions)
        known = F.one_hot(self._tokens[at], emitted.shape[-1]).to(emitted.dtype)
        weights = self._evidence.dense_weights(positions)
        weighed = torch.where(self._observed[at][..., None], known, emitted * weights)
        return weighed / weighed.sum(-1, keepdim=True).clamp_min(torch.finfo(emitted.dtype).tiny)
