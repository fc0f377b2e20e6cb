"""From a backbone's hidden states to the context of blocks."""

import torch
from torch import Tensor

from codd_lightning.backbones import Prediction
from codd_lightning.circuits import Context, Reads
from codd_lightning.errors import UserError


def context_of(
    prediction: Prediction, reads: Reads, hidden: Tensor | None, rows: Tensor, starts: Tensor, attention_mask: Tensor
) -> Context | None:
    """What a circuit reads of some blocks of a canvas; None if it reads nothing.

    Args:
        prediction: for the canvas.
        reads: of the circuit.
        hidden: `(M, L, D)`, of the blocks' positions; None where the backbone gives none.
        rows: `(M,)` long, of the canvas, which row each block lies in.
        starts: `(M,)` long, the column that each begins at.
        attention_mask: `(B, T)`, 0 where padded.

    Raises:
        UserError: the backbone gives no hidden states.
    """
    if reads == Reads.NOTHING:
        return None
    if hidden is None or prediction.states is None:
        raise UserError("this circuit reads the backbone's hidden states, and this backbone gives none")
    if reads == Reads.BLOCK:
        return Context(hidden)
    width = max(int(starts.max()), 1) if len(starts) else 1
    present = attention_mask[rows, :width].bool()
    present = present & (torch.arange(width, device=present.device) < starts[:, None])
    return Context(hidden, prediction.states[rows, :width], present)
