"""Scores of the remasking strategies, and the choice of the best-scored positions."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from codd_lightning.decoding import REMASKING
from codd_lightning.decoding.remasking import best_first
from codd_lightning.decoding.sampling import RowDraws

NO_UNIFORMS = torch.zeros(2, 3)
PROBABILITIES = torch.tensor(
    [
        [[0.5, 0.3, 0.2, 0.0], [0.25, 0.25, 0.25, 0.25], [0.1, 0.2, 0.3, 0.4]],
        [[1.0, 0.0, 0.0, 0.0], [0.6, 0.4, 0.0, 0.0], [0.0, 0.05, 0.9, 0.05]],
    ]
)


@st.composite
def rankings(draw: st.DrawFn) -> tuple[list[float], list[bool], int]:
    length = draw(st.integers(1, 9))
    few_values = st.sampled_from([-1.0, 0.0, 0.5, 2.0])  # so that ties are common
    scores = draw(st.lists(few_values, min_size=length, max_size=length))
    eligible = draw(st.lists(st.booleans(), min_size=length, max_size=length))
    return scores, eligible, draw(st.integers(0, length + 2))


def best_by_looking(scores: list[float], eligible: list[bool], quota: int) -> list[bool]:
    """Takes, again and again, the leftmost of the highest-scored positions still to be had."""
    left = {i for i, may in enumerate(eligible) if may}
    taken = set()
    while left and len(taken) < quota:
        highest = max(scores[i] for i in left)
        chosen = min(i for i in left if scores[i] == highest)
        left.remove(chosen)
        taken.add(chosen)
    return [i in taken for i in range(len(scores))]


@given(ranking=rankings())
def test_best_first_takes_the_quota_best_with_ties_to_the_left(ranking: tuple[list[float], list[bool], int]) -> None:
    scores, eligible, quota = ranking
    found = best_first(torch.tensor([scores]), torch.tensor([eligible]), torch.tensor([quota]))
    assert found[0].tolist() == best_by_looking(scores, eligible, quota)


def test_best_first_serves_each_row_its_own_quota() -> None:
    scores = torch.tensor([[3.0, 1.0, 2.0], [3.0, 1.0, 2.0], [3.0, 1.0, 2.0]])
    found = best_first(scores, torch.ones(3, 3, dtype=torch.bool), torch.tensor([0, 2, 5]))
    assert found.tolist() == [[False, False, False], [True, False, True], [True, True, True]]


def test_low_confidence_is_the_probability_of_the_proposed_token() -> None:
    tokens = torch.tensor([[1, 0, 3], [0, 1, 1]])
    expected = torch.tensor([[0.3, 0.25, 0.4], [1.0, 0.4, 0.05]])
    torch.testing.assert_close(REMASKING["low_confidence"].score(PROBABILITIES, tokens, NO_UNIFORMS), expected)


def test_low_confidence_is_the_largest_probability_before_a_token_is_proposed() -> None:
    expected = torch.tensor([[0.5, 0.25, 0.4], [1.0, 0.6, 0.9]])
    torch.testing.assert_close(REMASKING["low_confidence"].score(PROBABILITIES, None, NO_UNIFORMS), expected)


@pytest.mark.parametrize("tokens", [None, torch.tensor([[1, 0, 3], [0, 1, 1]])], ids=["before", "after"])
def test_margin_is_the_difference_of_the_two_largest_probabilities(tokens: Tensor | None) -> None:
    expected = torch.tensor([[0.2, 0.0, 0.1], [1.0, 0.2, 0.85]])
    torch.testing.assert_close(REMASKING["margin"].score(PROBABILITIES, tokens, NO_UNIFORMS), expected)


@pytest.mark.parametrize("tokens", [None, torch.tensor([[1, 0, 3], [0, 1, 1]])], ids=["before", "after"])
def test_entropy_is_the_negative_entropy_over_the_vocabulary(tokens: Tensor | None) -> None:
    expected = [[sum(p * math.log(p) for p in place if p > 0) for place in row] for row in PROBABILITIES.tolist()]
    torch.testing.assert_close(REMASKING["entropy"].score(PROBABILITIES, tokens, NO_UNIFORMS), torch.tensor(expected))


def test_left_to_right_prefers_the_left_whatever_the_distribution() -> None:
    scores = REMASKING["left_to_right"].score(PROBABILITIES.flip(-1), None, NO_UNIFORMS)
    assert scores.argsort(-1, descending=True).tolist() == [[0, 1, 2]] * 2


def test_random_ranks_by_the_numbers_of_the_rows_own_generator() -> None:
    def scores(*seeds: int) -> Tensor:
        draws = RowDraws([torch.Generator().manual_seed(seed) for seed in seeds], torch.device("cpu"))
        return REMASKING["random"].score(torch.rand(len(seeds), 3, 4), None, draws.uniforms(3))

    together, alone = scores(11, 12), scores(12)
    torch.testing.assert_close(together[1], alone[0], rtol=0.0, atol=0.0)
    assert not torch.equal(together[0], together[1])


def test_only_random_asks_for_randomness() -> None:
    assert [name for name, ranking in REMASKING.items() if ranking.draws] == ["random"]
