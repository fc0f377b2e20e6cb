"""What is known of the windows that one denoising step asks about."""

import dataclasses
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from codd_lightning.decoding.windows import Windows


@dataclass(frozen=True)
class Asked:
    """M windows of L positions, and what is known of each.

    Attributes:
        rows: `(M,)` long, whose window it is.
        columns: `(M, L)` long, of the canvas.
        inside: `(M, L)` bool, False beyond the end of what is denoised.
        logits: `(M, L, V)`, the backbone's.
        targets: `(M, L)` bool, positions that may be committed.
        opened: `(M, L)` bool, all masked positions.
        behind: `(M,)` bool, whether a mask lies left of the window.
        hidden: `(M, L, D)`, the backbone's hidden states; None where it gives none.
    """

    rows: Tensor
    columns: Tensor
    inside: Tensor
    logits: Tensor
    targets: Tensor
    opened: Tensor
    behind: Tensor
    hidden: Tensor | None

    def part(self, index: Tensor) -> "Asked":
        """Some of the windows, by `(K,)` index."""
        values: dict[str, Any] = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        chosen: dict[str, Any] = {name: None if v is None else v[index] for name, v in values.items()}
        return Asked(**chosen)

    def windows(self, windows: Windows, targets: Tensor) -> "Asked":
        """Narrower windows of these, for some `(M, L)` targets; a position beyond the end repeats the last one."""
        length = self.opened.shape[1]
        row, position = windows.row[:, None], windows.positions
        exists = position < length
        position = position.clamp_max(length - 1)
        return Asked(
            rows=self.rows[windows.row],
            columns=self.columns[row, position],
            inside=self.inside[row, position] & exists,
            logits=self.logits[row, position],
            targets=targets[row, position] & exists,
            opened=self.opened[row, position] & exists,
            behind=(self.opened.cumsum(-1) - self.opened.long())[windows.row, windows.start] > 0,
            hidden=None if self.hidden is None else self.hidden[row, position],
        )
