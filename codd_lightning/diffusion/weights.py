"""How much one sample counts in the loss, given its noise level."""

from collections.abc import Callable

from torch import Tensor


def inverse_t(t: Tensor) -> Tensor:
    """`1 / t`: the negative evidence lower bound of the masking process (paper Eq. 7)."""
    return 1.0 / t


def flat(t: Tensor) -> Tensor:
    """1: every masked token counts alike, so that high noise levels, which few steps meet, count more."""
    return t.new_ones(t.shape)


WEIGHTS: dict[str, Callable[[Tensor], Tensor]] = {"inverse_t": inverse_t, "flat": flat}
