"""A shallow mixture: one latent state for the whole block."""

from typing import ClassVar

import torch
from torch import Tensor, nn

from codd_lightning.circuits.categorical import draw
from codd_lightning.circuits.circuit import register_circuit
from codd_lightning.circuits.latent import EMISSION_SPREAD, LatentCircuit
from codd_lightning.circuits.messages import Messages
from codd_lightning.circuits.scaling import entropy_of, masked_log, normalize_log, rescale, safe_log
from codd_lightning.circuits.tables import Tables


@register_circuit("mixture")
class Mixture(LatentCircuit):
    """Mixture of fully factorized components: `p_ω(x) = Σ_z π(z) Π_i E_i(z, x_i)`.

    The HMM without its chain: what it lacks beside an HMM with as many parameters is what the chain is
    for. It has `N · L · V` of them, an HMM `N² + N · V`.

    Args:
        num_states: N, components.
        vocab_size: V.
        block_length: L, the most positions that a block may have.

    Raises:
        CircuitError: a size is not positive.
    """

    tables: ClassVar[dict[str, int]] = {"prior": -1, "emission": 1}
    spreads: ClassVar[dict[str, float]] = {"prior": 0.3, "emission": EMISSION_SPREAD}

    def __init__(self, num_states: int, vocab_size: int, block_length: int) -> None:
        super().__init__(num_states, vocab_size, block_length, homogeneous=False)
        self.prior_logits = nn.Parameter(torch.empty(num_states))
        self.reset_parameters()

    def _log_normalizer(self, tables: Tables, scores: Tensor) -> Tensor:
        joint, log_scale = normalize_log(masked_log(tables.latent["prior"]) + masked_log(scores).sum(1))
        return safe_log(joint.sum(-1)) + log_scale

    def _messages(self, tables: Tables, scores: Tensor) -> "MixtureMessages":
        return MixtureMessages(tables.latent["prior"], scores)


class MixtureMessages(Messages):
    """Every position says its score, and hears the product of the others'."""

    num_draws = 1

    def __init__(self, prior: Tensor, scores: Tensor) -> None:
        self._log_prior = masked_log(prior)
        self._log_scores = masked_log(scores)  # (B, L, N)

    def outside(self, positions: Tensor | None = None) -> Tensor:
        # sums over what comes before and after: subtracting a position's own score would fail where it is 0
        nothing = torch.zeros_like(self._log_scores[:, :1])
        before = torch.cat([nothing, self._log_scores[:, :-1].cumsum(1)], 1)
        after = torch.cat([self._log_scores[:, 1:].flip(1).cumsum(1).flip(1), nothing], 1)
        others = normalize_log(self._log_prior + before + after)[0]
        if positions is None:
            return others
        return others[torch.arange(len(positions), device=positions.device), positions]

    def change(self, rows: Tensor, positions: Tensor, scores: Tensor) -> None:
        self._log_scores[rows, positions] = masked_log(scores)

    def sample(self, uniforms: Tensor) -> Tensor:
        component = draw(self._posterior(), uniforms[:, 0])
        return component[:, None].expand(-1, self._log_scores.shape[1]).clone()

    def mode(self, log_scores: Tensor) -> tuple[Tensor, Tensor]:
        log_mass, component = (self._log_prior + log_scores.sum(1)).max(-1)
        return component[:, None].expand(log_scores.shape[:2]).clone(), log_mass

    def entropy(self) -> Tensor:
        return entropy_of(self._posterior())

    def rows(self, index: Tensor) -> "MixtureMessages":
        chosen = object.__new__(MixtureMessages)
        chosen._log_prior, chosen._log_scores = self._log_prior, self._log_scores[index]
        return chosen

    def _posterior(self) -> Tensor:
        return rescale(normalize_log(self._log_prior + self._log_scores.sum(1))[0])[1]
