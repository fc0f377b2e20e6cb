"""Expected counts of a batch, for EM."""

import torch
from torch import Tensor

from codd_lightning.circuits import Circuit
from codd_lightning.data import Blocks

Counts = dict[str, Tensor]


def expected_counts(
    circuit: Circuit, blocks: Blocks, weights: Tensor, conditional: bool = True
) -> tuple[Counts, Counts | None]:
    """What the true tokens use of a circuit, and what the evidence alone expects of it.

    The difference of the two is the gradient of the conditional log-likelihood in the logs of the tables; without
    the second they are those of EM for the likelihood.

    Args:
        circuit: whose tables are counted.
        blocks: tokens and evidence.
        weights: `(M,)`, of each block.
        conditional: whether to count under the evidence as well; None in the second place if not.
    """
    everywhere = torch.ones_like(blocks.tokens, dtype=torch.bool)
    evidence = circuit.prepare(blocks.evidence)
    known = circuit.expected_counts(evidence.clamp(blocks.tokens, everywhere), weights)
    return known, circuit.expected_counts(evidence, weights) if conditional else None
