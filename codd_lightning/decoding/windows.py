"""Windows of full diffusion: the fewest that cover the positions that a step commits (paper Algorithm 2)."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Windows:
    """Some windows of some rows, all of one width.

    Attributes:
        row: `(M,)` long, whose window it is.
        start: `(M,)` long, its first position.
        width: positions of each.
    """

    row: Tensor
    start: Tensor
    width: int

    @property
    def positions(self) -> Tensor:
        """`(M, width)` long; may lie beyond a row's end."""
        return self.start[:, None] + torch.arange(self.width, device=self.start.device)


def cover(targets: Tensor, width: int) -> Windows:
    """The fewest windows that hold all targets, in order of rows and then of positions.

    From left to right each window starts at the first target that no window holds yet: no cover has fewer,
    because that target needs a window of its own, and none reaches further right.

    Args:
        targets: `(B, L)` bool.
        width: of each window.
    """
    left = targets.clone()
    column = torch.arange(targets.shape[1], device=targets.device)
    rows, starts = [], []
    while bool(left.any()):
        row = left.any(-1).nonzero().squeeze(-1)
        start = left[row].int().argmax(-1)
        left[row] &= column >= start[:, None] + width
        rows.append(row)
        starts.append(start)
    if not rows:
        nothing = column[:0]
        return Windows(nothing, nothing, width)
    row, start = torch.cat(rows), torch.cat(starts)
    order = (row * targets.shape[1] + start).argsort()
    return Windows(row[order], start[order], width)
