"""Effective states, dead states and the entropy of transitions, where they are known in closed form."""

import math

import pytest
import torch

from codd_lightning.circuits import HMM, Circuit, Evidence, Factorized, Health, Mixture, Tree, circuit_health

STATES, VOCABULARY, LENGTH = 4, 5, 6
FLAT = torch.full((STATES,), 1 / STATES, dtype=torch.float64)
SPREAD = torch.full((STATES, VOCABULARY), 1 / VOCABULARY, dtype=torch.float64)


def chain(initial: torch.Tensor, transition: torch.Tensor, emission: torch.Tensor = SPREAD) -> HMM:
    return HMM.from_probabilities(initial, transition, emission, LENGTH)


def alone(circuit: Circuit) -> Health:
    evidence = Evidence.nothing_known(2, LENGTH, circuit.vocab_size, dtype=torch.float64)
    health = circuit_health(circuit, evidence)
    assert health is not None
    return health


def test_a_uniform_chain_uses_all_states_and_its_transitions_are_unsure() -> None:
    health = alone(chain(FLAT, FLAT.expand(STATES, -1).clone()))
    assert health.effective_states == pytest.approx(STATES)
    assert health.transition_entropy == pytest.approx(math.log(STATES))
    assert health.dead_states == 0


def test_a_cycle_uses_all_states_and_its_transitions_are_sure() -> None:
    health = alone(chain(FLAT, torch.eye(STATES, dtype=torch.float64).roll(1, 0)))
    assert health.effective_states == pytest.approx(STATES)
    assert health.transition_entropy == pytest.approx(0.0)


def test_a_chain_that_never_leaves_a_state_has_one_and_the_rows_of_others_do_not_count() -> None:
    transition = FLAT.expand(STATES, -1).clone()
    transition[0] = torch.tensor([1.0, 0, 0, 0])
    health = alone(chain(torch.tensor([1.0, 0, 0, 0], dtype=torch.float64), transition))
    assert health.effective_states == pytest.approx(1.0)
    assert health.dead_states == STATES - 1
    assert health.transition_entropy == pytest.approx(0.0)


def test_usage_of_a_chain_is_the_mean_of_its_powers() -> None:
    generator = torch.Generator().manual_seed(3)
    initial = torch.rand(STATES, generator=generator, dtype=torch.float64).softmax(-1)
    transition = (3 * torch.rand(STATES, STATES, generator=generator, dtype=torch.float64)).softmax(-1)
    reached = [initial @ torch.linalg.matrix_power(transition, i) for i in range(LENGTH)]
    usage = [float(sum(row[n] for row in reached)) / LENGTH for n in range(STATES)]
    left = [float(sum(row[n] for row in reached[:-1])) / (LENGTH - 1) for n in range(STATES)]
    of_rows = [-sum(float(p) * math.log(p) for p in row) for row in transition]
    health = alone(chain(initial, transition))
    assert health.effective_states == pytest.approx(math.exp(-sum(u * math.log(u) for u in usage)))
    assert health.transition_entropy == pytest.approx(sum(u * h for u, h in zip(left, of_rows, strict=True)))


def test_states_that_are_tokens_are_used_as_often_as_the_tokens() -> None:
    circuit = chain(FLAT, FLAT.expand(STATES, -1).clone(), torch.eye(STATES, dtype=torch.float64))
    tokens = torch.tensor([[0, 0, 0, 1, 1, 2]])
    evidence = Evidence.nothing_known(1, LENGTH, STATES, dtype=torch.float64)
    health = circuit_health(circuit, evidence.clamp(tokens, torch.ones_like(tokens, dtype=torch.bool)))
    assert health is not None
    entropy = -sum(share * math.log(share) for share in (3 / 6, 2 / 6, 1 / 6))
    assert health.effective_states == pytest.approx(math.exp(entropy))
    assert health.dead_states == 1


@pytest.mark.parametrize(("share", "dead"), [(1.1 / (100 * STATES), 0), (0.9 / (100 * STATES), 1)])
def test_a_state_is_dead_below_a_hundredth_of_an_even_share(share: float, dead: int) -> None:
    mixture = Mixture(STATES, VOCABULARY, LENGTH).double()
    rest = (1 - share) / (STATES - 1)
    with torch.no_grad():
        mixture.prior_logits.copy_(torch.tensor([share, rest, rest, rest]).log())
    health = alone(mixture)
    assert health.dead_states == dead
    assert health.transition_entropy is None
    assert health.effective_states == pytest.approx(
        math.exp(-share * math.log(share) - 3 * rest * math.log(rest)), rel=1e-5
    )


def test_a_uniform_tree_is_like_a_uniform_chain() -> None:
    tree = Tree(STATES, VOCABULARY, LENGTH).double()
    with torch.no_grad():
        tree.initial_logits.zero_()
        tree.transition_logits.zero_()
    health = alone(tree)
    assert health.effective_states == pytest.approx(STATES)
    assert health.transition_entropy == pytest.approx(math.log(STATES))


def test_a_structure_without_states_has_no_health() -> None:
    circuit = Factorized(VOCABULARY, LENGTH)
    assert circuit_health(circuit, Evidence.nothing_known(1, LENGTH, VOCABULARY)) is None
