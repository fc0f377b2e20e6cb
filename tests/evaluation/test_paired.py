"""Paired comparisons against scipy-free oracles: enumeration of coin tosses, and what must hold by symmetry."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codd_lightning.evaluation.paired import mcnemar, paired_difference

grades = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=10)


@given(grades)
def test_mcnemar_is_the_share_of_coin_tosses_at_least_as_uneven(pairs: list[tuple[bool, bool]]) -> None:
    a, b = [x for x, _ in pairs], [y for _, y in pairs]
    discordant = [x for x, y in pairs if x != y]
    seen = abs(2 * sum(discordant) - len(discordant))
    tosses = list(itertools.product((0, 1), repeat=len(discordant)))
    uneven = sum(abs(2 * sum(toss) - len(toss)) >= seen for toss in tosses)
    assert mcnemar(a, b) == pytest.approx(uneven / len(tosses))


@given(grades)
def test_both_are_symmetric_and_the_interval_holds_the_difference(pairs: list[tuple[bool, bool]]) -> None:
    a, b = [x for x, _ in pairs], [y for _, y in pairs]
    difference, low, high = paired_difference(a, b)
    assert difference == pytest.approx(sum(a) / len(a) - sum(b) / len(b))
    assert low - 1e-9 <= difference <= high + 1e-9
    assert paired_difference(b, a) == pytest.approx((-difference, -high, -low), abs=1e-6)
    assert mcnemar(a, b) == mcnemar(b, a)


def test_pairs_that_move_together_have_a_narrower_interval_than_their_separate_ones() -> None:
    a = [i % 2 == 0 for i in range(200)]
    b = [i % 2 == 0 and i >= 20 for i in range(200)]  # worse on ten of the same problems
    difference, low, high = paired_difference(a, b)
    assert difference == pytest.approx(0.05)
    assert 0 < low < high < 0.1
    assert mcnemar(a, b) == pytest.approx(2 / 2**10)


def test_what_is_not_paired_is_refused() -> None:
    for pair in (([], []), ([True], [True, False])):
        with pytest.raises(ValueError, match="pairs"):
            mcnemar(*pair)
        with pytest.raises(ValueError, match="pairs"):
            paired_difference(*pair)
