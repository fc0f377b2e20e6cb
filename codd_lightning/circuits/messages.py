"""What a structure must answer about its latent states."""

from abc import ABC, abstractmethod

from torch import Tensor


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
