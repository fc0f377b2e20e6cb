"""How much the summed loss of one sample counts, given its noise."""

from collections.abc import Callable

from torch import Tensor

from codd_lightning.diffusion.forward_process import NoiseLevel


def inverse_t(level: NoiseLevel) -> Tensor:
    """`1 / t` per candidate token: the evidence lower bound of the masking process (paper Eq. 7)."""
    return 1.0 / (level.t * level.candidates)


def per_token(level: NoiseLevel) -> Tensor:
    """The mean over the sample's scored tokens: `1 / t` with t as it came out, so of lower variance."""
    return 1.0 / level.scored.clamp_min(1)


def flat(level: NoiseLevel) -> Tensor:
    """The same for every candidate token, so that high noise levels, which few steps meet, count more."""
    return 1.0 / level.candidates.float()


# From the noise of a batch to the (B,) weights of its samples' losses, each summed over scored tokens.
WEIGHTS: dict[str, Callable[[NoiseLevel], Tensor]] = {"inverse_t": inverse_t, "per_token": per_token, "flat": flat}
