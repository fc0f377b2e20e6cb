"""How steps are shared out over blocks, and tokens over steps."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from codd_lightning.decoding.schedule import quotas, spread


def is_even_and_larger_first(parts: list[int]) -> bool:
    return max(parts) - min(parts) <= 1 and parts == sorted(parts, reverse=True)


@given(total=st.integers(0, 200), parts=st.integers(1, 40))
def test_spread_is_even_larger_first_and_loses_nothing(total: int, parts: int) -> None:
    shares = spread(total, parts)
    assert len(shares) == parts
    assert sum(shares) == total
    assert is_even_and_larger_first(shares)


@given(masked=st.lists(st.integers(0, 100), min_size=1, max_size=6), steps=st.integers(1, 40))
def test_quotas_are_even_larger_first_and_sum_to_the_masked_tokens(masked: list[int], steps: int) -> None:
    found = quotas(torch.tensor(masked), steps).tolist()
    assert [sum(row) for row in found] == masked
    assert all(len(row) == steps and is_even_and_larger_first(row) for row in found)
