"""What is recorded of a denoising step where a trace is asked for."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class TraceStep:
    """What one denoising step committed in some windows.

    Attributes:
        rows: `(M,)` row numbers, one for each window.
        number: `(M,)` long, which step of its row it is, from 1.
        columns: `(M, L)` columns of each window; the last one repeats beyond the end of the canvas.
        canvas: `(M, T)` token ids after the step.
        committed: `(M, L)` bool, what the step committed.
        confidence: `(M, L)`, of the committed tokens.
        expected: `(M, L)` long, the backbone's most probable token given the canvas before the step.
        coupled: `(M,)` bool, windows on which the circuit acted.
    """

    rows: Tensor
    number: Tensor
    columns: Tensor
    canvas: Tensor
    committed: Tensor
    confidence: Tensor
    expected: Tensor
    coupled: Tensor
