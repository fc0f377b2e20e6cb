"""Dead states split off busy ones: what the circuit says stays, and the states are used."""

import pytest
import torch

from codd_lightning.circuits import (
    HMM,
    CircuitError,
    ContextualHMM,
    Evidence,
    circuit_health,
    split_dead_states,
    splitting,
)

from .structures import CLOSE


def with_dead_states(roles: int = 0) -> HMM:
    """Of 8 states those of an odd number are never reached."""
    torch.manual_seed(0)
    circuit = HMM(8, 5, 4) if not roles else ContextualHMM(8, 5, 4, 6, roles=roles, adapter_width=0)
    circuit = circuit.double()
    with torch.no_grad():
        circuit.initial_logits[1::2] = -40.0
        circuit.transition_logits[..., 1::2] = -40.0
    return circuit


def usage_of(circuit: HMM) -> torch.Tensor:
    nothing = Evidence.nothing_known(1, 4, 5, dtype=torch.float64)
    return circuit.expected_counts(nothing)["emission"].sum((0, 1))


@pytest.mark.parametrize("roles", [0, 2])
def test_without_noise_a_split_changes_nothing_and_uses_every_state(
    roles: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(splitting, "NOISE", 0.0)
    circuit = with_dead_states(roles)
    tokens = torch.cartesian_prod(*[torch.arange(5)] * 4)
    before = circuit.log_prob(tokens)
    assert split_dead_states(circuit, usage_of(circuit), torch.Generator().manual_seed(0)) == 4
    torch.testing.assert_close(circuit.log_prob(tokens), before, **CLOSE)
    health = circuit_health(circuit, Evidence.nothing_known(1, 4, 5, dtype=torch.float64))
    assert health is not None
    assert health.dead_states == 0


def test_a_dead_state_is_a_copy_of_a_busy_one_of_its_own_role(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(splitting, "NOISE", 0.0)
    circuit = with_dead_states(roles=2)
    split_dead_states(circuit, usage_of(circuit), torch.Generator().manual_seed(0))
    emission = circuit.emission_logits[0].T
    for dead in range(1, 8, 2):
        alike = [busy for busy in range(0, 8, 2) if torch.equal(emission[dead], emission[busy])]
        assert len(alike) == 1
        assert alike[0] // 4 == dead // 4


def test_the_halves_differ_by_noise_that_the_generator_decides() -> None:
    found = []
    for _ in range(2):
        circuit = with_dead_states()
        split_dead_states(circuit, usage_of(circuit), torch.Generator().manual_seed(3))
        found.append(circuit.emission_logits.detach().clone())
    assert torch.equal(*found)
    assert len(found[0][0].T.unique(dim=0)) == 8


def test_where_nothing_is_dead_nothing_is_split() -> None:
    torch.manual_seed(0)
    circuit = HMM(4, 5, 4)
    before = {name: value.clone() for name, value in circuit.state_dict().items()}
    assert split_dead_states(circuit, torch.ones(4), torch.Generator()) == 0
    assert all(torch.equal(value, before[name]) for name, value in circuit.state_dict().items())


def test_states_that_differ_by_position_are_refused() -> None:
    with pytest.raises(CircuitError, match="use homogeneous=true"):
        split_dead_states(HMM(4, 5, 4, homogeneous=False), torch.ones(4), torch.Generator())
