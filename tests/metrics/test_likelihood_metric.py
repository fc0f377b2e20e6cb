"""Likelihoods by mask ratio against sums written out."""

from typing import Any

import torch
from hypothesis import given
from hypothesis import strategies as st

from codd_lightning.metrics import MASK_RATIO_BUCKETS, LikelihoodByMaskRatio, bucket_of

Block = tuple[float, float, int, float]  # factorized, coupled, tokens, mask ratio
blocks_of_data = st.lists(
    st.tuples(st.floats(-50, 0), st.floats(-50, 0), st.integers(1, 32), st.floats(0.01, 1.0)), min_size=1, max_size=20
)


def update(metric: LikelihoodByMaskRatio, blocks: list[Block]) -> None:
    factorized, coupled, tokens, ratio = (torch.tensor(column) for column in zip(*blocks, strict=True))
    metric.update(factorized=factorized, coupled=coupled, tokens=tokens, mask_ratio=ratio)


def written_out(blocks: list[Block]) -> dict[str, float]:
    tokens = sum(block[2] for block in blocks)
    values = {
        "nll_factorized": -sum(block[0] for block in blocks) / tokens,
        "nll_coupled": -sum(block[1] for block in blocks) / tokens,
    }
    for low, high in ((0.0, 0.25), (0.25, 0.5), (0.5, 0.75), (0.75, 1.0)):
        here = [block for block in blocks if low < float(torch.tensor(block[3])) <= high]
        if here:
            tokens, place = sum(block[2] for block in here), f"{low:.2f}-{high:.2f}"
            values[f"nll_factorized/{place}"] = -sum(block[0] for block in here) / tokens
            values[f"nll_coupled/{place}"] = -sum(block[1] for block in here) / tokens
            values[f"cll_gain/{place}"] = sum(block[1] - block[0] for block in here) / tokens
    return values


def assert_same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(float(found[name]), float(value), rtol=1e-5, atol=1e-6)


@given(blocks=blocks_of_data)
def test_likelihoods_are_means_over_tokens_in_each_bucket(blocks: list[Block]) -> None:
    metric = LikelihoodByMaskRatio()
    update(metric, blocks)
    assert_same(metric.compute(), written_out(blocks))


@given(blocks=blocks_of_data, cut=st.integers(1, 20))
def test_two_processes_report_what_one_would(blocks: list[Block], cut: int) -> None:
    here, there = (LikelihoodByMaskRatio() for _ in range(2))
    for metric, half in ((here, blocks[:cut]), (there, blocks[cut:])):
        for block in half:
            update(metric, [block])
    states = {id(getattr(here, name)): getattr(there, name) for name in ("factorized", "coupled", "tokens")}
    here.distributed_available_fn = lambda: True
    here.dist_sync_fn = lambda state, group: [state, states[id(state)]]  # what all_gather would answer
    assert_same(here.compute(), written_out(blocks))


def test_many_updates_lose_no_precision() -> None:
    metric = LikelihoodByMaskRatio()
    update(metric, [(-1e7, -1e7, 1, 1.0)])
    for _ in range(1000):
        update(metric, [(-0.25, -0.25, 1, 1.0)])
    torch.testing.assert_close(float(metric.compute()["nll_factorized"]), (1e7 + 250) / 1001, rtol=1e-7, atol=0.0)


def test_a_reset_metric_starts_again() -> None:
    metric = LikelihoodByMaskRatio()
    update(metric, [(-9.0, -9.0, 1, 0.1)])
    metric.reset()
    update(metric, [(-2.0, -1.0, 2, 0.9)])
    assert_same(metric.compute(), written_out([(-2.0, -1.0, 2, 0.9)]))


def test_buckets_hold_their_upper_edges() -> None:
    ratios = torch.tensor([0.01, 0.25, 0.26, 0.5, 0.51, 0.75, 0.76, 1.0])
    assert bucket_of(ratios).tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert MASK_RATIO_BUCKETS == ((0.0, 0.25), (0.25, 0.5), (0.5, 0.75), (0.75, 1.0))
