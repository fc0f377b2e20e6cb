"""95 % intervals against known values and closed forms."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from codd_lightning.evaluation import bootstrap_ratio, wilson


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [
        (8, 10, 0.4902, 0.9433),
        (0, 10, 0.0, 0.2775),
        (10, 10, 0.7225, 1.0),
        (1, 2, 0.0945, 0.9055),
        (50, 100, 0.4038, 0.5962),
        (0, 1, 0.0, 0.7935),
    ],
)
def test_wilson_gives_published_values(successes: int, n: int, low: float, high: float) -> None:
    assert wilson(successes, n) == (pytest.approx(low, abs=5e-5), pytest.approx(high, abs=5e-5))


@given(n=st.integers(1, 5000), share=st.floats(0, 1))
def test_wilson_bounds_are_the_proportions_that_the_share_just_rejects(n: int, share: float) -> None:
    successes = round(share * n)
    for bound in wilson(successes, n):
        assert 0.0 <= bound <= 1.0
        score = abs(successes / n - bound) - 1.959964 * math.sqrt(bound * (1 - bound) / n)
        assert abs(score) < 1e-6


def test_intervals_of_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        wilson(0, 0)
    with pytest.raises(ValueError, match="at least one"):
        bootstrap_ratio(torch.zeros(0), torch.zeros(0))


def test_bootstrap_of_a_constant_ratio_has_no_width() -> None:
    counts = torch.arange(1.0, 20.0)
    assert bootstrap_ratio(0.75 * counts, counts) == (pytest.approx(0.75), pytest.approx(0.75))


def test_bootstrap_of_a_mean_has_the_width_of_its_standard_error() -> None:
    values = torch.randn(400, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 3.0
    low, high = bootstrap_ratio(values, torch.ones(400, dtype=torch.float64))
    error = float(values.std()) / math.sqrt(400)
    assert low < float(values.mean()) < high
    assert high - low == pytest.approx(2 * 1.96 * error, rel=0.08)
    assert (low + high) / 2 == pytest.approx(float(values.mean()), abs=0.2 * error)


def test_bootstrap_draws_samples_whole() -> None:
    """By the delta method the error of a ratio comes from `total − ratio · count`, not from the totals alone."""
    generator = torch.Generator().manual_seed(1)
    counts = torch.randint(1, 33, (600,), generator=generator).double()
    totals = 2.0 * counts + torch.randn(600, generator=generator, dtype=torch.float64)
    low, high = bootstrap_ratio(totals, counts)
    residuals = totals - totals.sum() / counts.sum() * counts
    error = float(residuals.std()) / math.sqrt(600) / float(counts.mean())
    assert high - low == pytest.approx(2 * 1.96 * error, rel=0.08)


def test_bootstrap_is_set_by_its_seed() -> None:
    totals, counts = torch.randn(30, generator=torch.Generator().manual_seed(0)), torch.ones(30)
    assert bootstrap_ratio(totals, counts, seed=1) == bootstrap_ratio(totals, counts, seed=1)
    assert bootstrap_ratio(totals, counts, seed=1) != bootstrap_ratio(totals, counts, seed=2)
