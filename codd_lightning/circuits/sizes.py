"""Circuits of a given size: structures are compared fairly at the same number of parameters."""

from collections.abc import Callable

import torch

from codd_lightning.circuits.circuit import Circuit
from codd_lightning.circuits.errors import CircuitError


def most_states(make: Callable[[int], Circuit], max_parameters: int, least: int = 1) -> int:
    """The most latent states with which a circuit has at most `max_parameters` parameters.

    Args:
        make: from a number of states to a circuit; called on torch's meta device, where nothing is allocated.
        max_parameters: the limit.
        least: states that a circuit must have.

    Raises:
        CircuitError: so few are too many.
    """

    def fits(num_states: int) -> bool:
        with torch.device("meta"):
            return sum(p.numel() for p in make(num_states).parameters()) <= max_parameters

    if not fits(least):
        of_least = "one state" if least == 1 else f"{least} states"
        raise CircuitError(f"circuit.max_parameters={max_parameters} is less than a circuit of {of_least} has")
    low, high = least, max(max_parameters, least) + 1  # fits, and does not: each state has at least one parameter
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low
