"""What every circuit answers once it is conditioned on evidence."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from codd_lightning.circuits.evidence import Evidence

if TYPE_CHECKING:
    from codd_lightning.circuits.circuit import Circuit


def normalized(log_mass: Tensor, log_total: Tensor) -> Tensor:
    """`log_mass - log_total`, minus infinity where there is no mass at all."""
    return torch.where(log_total == -torch.inf, -torch.inf, log_mass - log_total)


@dataclass(frozen=True)
class Mode:
    """The most probable latents and tokens together.

    Attributes:
        latents: `(B, L)` long.
        tokens: `(B, L)` long; 0 where absent.
        log_prob: `(B,)` nats, `log p̂(z, x)` of the pair.
    """

    latents: Tensor
    tokens: Tensor
    log_prob: Tensor


class Posterior(ABC):
    """A circuit conditioned on evidence: `p̂(x) ∝ p_ω(x) Π_i w_i(x_i)` over `B` blocks.

    Attributes:
        circuit: `p_ω`.
        num_draws: how many uniform numbers one sample of latents takes per block.
    """

    circuit: "Circuit"
    num_draws: int

    @property
    @abstractmethod
    def evidence(self) -> Evidence:
        """What the circuit is conditioned on by now."""

    @abstractmethod
    def sample_latents(self, generator: torch.Generator | None = None, uniforms: Tensor | None = None) -> Tensor:
        """Latent states drawn from `p̂(z)`.

        Args:
            generator: source of the draws; the default generator if None.
            uniforms: `(B, num_draws)` numbers in [0, 1) to draw with instead, so that a row's draw can be its own.

        Returns:
            `(B, L)` long.
        """

    @abstractmethod
    def token_distribution(self, latents: Tensor) -> Tensor:
        """`p̂(x_i | z_i)` for every position, `(B, L, V)`, given `(B, L)` latent states."""

    @abstractmethod
    def token_marginals(self, positions: Tensor | None = None) -> Tensor:
        """Exact posterior marginals `p̂(x_i)`.

        Args:
            positions: `(B,)` long, one position per row; all positions if None.

        Returns:
            `(B, L, V)`, or `(B, V)` for one position per row. A known token has probability 1; an
            absent position has the circuit's own distribution.
        """

    @abstractmethod
    def candidate_distribution(self, latents: Tensor) -> Tensor:
        """`token_distribution` over the evidence's candidates where it has some, `(B, L, K)`; of soft positions."""

    @abstractmethod
    def candidate_marginals(self, positions: Tensor | None = None) -> Tensor:
        """`token_marginals` over the evidence's candidates, `(B, L, K)` or `(B, K)`, where it has some.

        They cost K tokens a position instead of V. Meant for soft positions; elsewhere they mean nothing.
        """

    @abstractmethod
    def condition(self, row: Tensor | int, position: Tensor | int, token: Tensor | int) -> None:
        """Makes one token known in each of some rows (`(M,)` each, or one), in place.

        Later queries answer for the conditioned distribution, and reuse what they can of the earlier.
        """

    @abstractmethod
    def mode(self) -> Mode:
        """The most probable pair of latents and tokens, by max-product.

        Its tokens need not be the most probable tokens: those are NP-hard to find in an HMM
        (Lyngsø & Pedersen, 2002).
        """

    @abstractmethod
    def entropy(self) -> Tensor:
        """`(B,)` nats: entropy of latents and tokens together, absent positions' tokens not counted."""

    @abstractmethod
    def rows(self, index: Tensor) -> "Posterior":
        """The posterior of some rows, by `(M,)` index; a row may be taken several times, and each goes its own way."""

    def log_prob(self, tokens: Tensor) -> Tensor:
        """`log p̂(x)` of `(B, L)` completions: `(B,)` nats, at most 0; minus infinity if ruled out."""
        return normalized(self.circuit.log_joint(tokens, self.evidence), self.circuit.log_partition(self.evidence))
