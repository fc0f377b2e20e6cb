"""When a circuit acts: by the masked share of its window beside the paper's activation threshold γ."""

from torch import Tensor

from codd_lightning.decoding.config import DecodingConfig


def within_threshold(config: DecodingConfig, masked: Tensor, size: Tensor) -> Tensor:
    """`(M,)` bool: whether the circuit acts on each window.

    Args:
        config: its `gamma`; at most that share is masked, less with `strict_gamma`, at least with `reverse_gamma`.
        masked: `(M,)` masked positions.
        size: `(M,)` positions in all.
    """
    limit = config.gamma * size
    if config.reverse_gamma:
        return masked > limit if config.strict_gamma else masked >= limit
    return masked < limit if config.strict_gamma else masked <= limit
