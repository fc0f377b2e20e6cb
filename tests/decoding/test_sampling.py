"""What tokens are drawn from."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from codd_lightning.decoding.sampling import RowDraws, restrict, sharpen

DISTRIBUTIONS = st.lists(st.integers(1, 1000), min_size=2, max_size=7, unique=True)


@given(weights=DISTRIBUTIONS, tau=st.floats(0.2, 3.0))
def test_sharpen_is_the_normalised_power(weights: list[int], tau: float) -> None:
    p = torch.tensor(weights, dtype=torch.float64) / sum(weights)
    expected = p ** (1.0 / tau)
    torch.testing.assert_close(sharpen(p, tau), expected / expected.sum())


@given(weights=DISTRIBUTIONS, top_k=st.integers(1, 8))
def test_top_k_leaves_the_k_largest_as_they_are(weights: list[int], top_k: int) -> None:
    kept = sorted(weights, reverse=True)[:top_k]
    found = restrict(torch.tensor(weights, dtype=torch.float64), top_k, None)
    assert found.tolist() == [w if w in kept else 0.0 for w in weights]


@given(weights=DISTRIBUTIONS, top_p=st.floats(0.01, 0.99))
def test_top_p_leaves_the_smallest_set_with_the_mass(weights: list[int], top_p: float) -> None:
    kept: list[int] = []
    for weight in sorted(weights, reverse=True):
        if sum(kept) < top_p * sum(weights):
            kept.append(weight)
    found = restrict(torch.tensor(weights, dtype=torch.float64), None, top_p)
    assert found.tolist() == [w if w in kept else 0.0 for w in weights]


def test_top_p_keeps_no_token_beyond_a_mass_that_is_just_reached() -> None:
    assert restrict(torch.tensor([0.25, 0.5, 0.125, 0.125]), None, 0.5).tolist() == [0.0, 0.5, 0.0, 0.0]
    assert restrict(torch.tensor([0.25, 0.5, 0.125, 0.125]), None, 0.75).tolist() == [0.25, 0.5, 0.0, 0.0]


def test_rows_draw_what_they_would_draw_alone() -> None:
    def draws(*seeds: int) -> RowDraws:
        return RowDraws([torch.Generator().manual_seed(seed) for seed in seeds], torch.device("cpu"))

    some = draws(1, 2, 3).rows(torch.tensor([2, 0])).uniforms(4)
    assert torch.equal(some[0], draws(3).uniforms(4)[0])
    assert torch.equal(some[1], draws(1).uniforms(4)[0])
    assert bool(((some >= 0) & (some < 1)).all())
