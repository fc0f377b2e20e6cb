"""Circuits as large as a limit allows."""

import pytest

from codd_lightning.circuits import HMM, CircuitError, Mixture, Tree, most_states


def parameters(structure: type[HMM], num_states: int) -> int:
    return sum(p.numel() for p in structure(num_states, 10, 8).parameters())


@pytest.mark.parametrize("structure", [HMM, Mixture, Tree])
@pytest.mark.parametrize("limit", [200, 4097])
def test_one_more_state_would_be_too_many(structure: type[HMM], limit: int) -> None:
    found = most_states(lambda states: structure(states, 10, 8), limit)
    assert parameters(structure, found) <= limit < parameters(structure, found + 1)


def test_a_limit_below_one_state_is_refused() -> None:
    with pytest.raises(CircuitError, match=r"max_parameters=5 is less than a circuit of one state has"):
        most_states(lambda states: HMM(states, 10, 8), 5)
