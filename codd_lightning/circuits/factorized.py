"""The circuit that knows nothing: the baseline of every comparison."""

from typing import Any

import torch

from codd_lightning.circuits.circuit import register_circuit
from codd_lightning.circuits.mixture import Mixture


@register_circuit("factorized")
class Factorized(Mixture):
    """Every token equally likely at every position, whatever the others are. Nothing of it is trained.

    Its product with a backbone's predictions is the backbone's predictions.

    Args:
        vocab_size: V.
        block_length: the most positions that a block may have.
    """

    def __init__(self, vocab_size: int, block_length: int) -> None:
        super().__init__(1, vocab_size, block_length)
        self.requires_grad_(False)

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Makes all tokens equally likely."""
        with torch.no_grad():
            self.prior_logits.zero_()
            self.emission_logits.zero_()

    def config(self) -> dict[str, Any]:
        return {"vocab_size": self.vocab_size, "block_length": self.block_length}
