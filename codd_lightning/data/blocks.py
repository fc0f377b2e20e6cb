"""The blocks of a batch, with their evidence: what a circuit is trained on, wherever the evidence comes from."""

from dataclasses import dataclass

import torch
from torch import Tensor

from codd_lightning.circuits import Evidence
from codd_lightning.diffusion import NoiseLevel


@dataclass(frozen=True)
class Blocks:
    """The blocks of a batch in which some token is scored.

    Attributes:
        tokens: `(M, L)` long, the true tokens.
        masked: `(M, L)` bool.
        counted: `(M, L)` bool: masked tokens up to the response's first EOS, which measured likelihoods count.
        evidence: of the backbone, for the M blocks.
        row: `(M,)` long, the row of the batch that each block comes from.
        noise: of each block's sample, `(M,)` each.
        examples: rows of the batch, those without a block among them.
    """

    tokens: Tensor
    masked: Tensor
    counted: Tensor
    evidence: Evidence
    row: Tensor
    noise: NoiseLevel
    examples: int

    def to(self, device: torch.device | str) -> "Blocks":
        """The blocks on a device."""
        return Blocks(
            self.tokens.to(device),
            self.masked.to(device),
            self.counted.to(device),
            self.evidence.to(device),
            self.row.to(device),
            self.noise.to(device),
            self.examples,
        )
