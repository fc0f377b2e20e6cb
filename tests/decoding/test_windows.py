"""The fewest windows over the positions of a step."""

import itertools

import torch
from hypothesis import given
from hypothesis import strategies as st

from codd_lightning.decoding.windows import cover


@st.composite
def scenes(draw: st.DrawFn) -> tuple[list[list[bool]], int]:
    length = draw(st.integers(1, 9))
    rows = draw(st.lists(st.lists(st.booleans(), min_size=length, max_size=length), min_size=1, max_size=3))
    return rows, draw(st.integers(1, 10))


def fewest(targets: list[bool], width: int) -> int:
    """Tries every set of window starts, the smallest sets first."""
    wanted = {i for i, target in enumerate(targets) if target}
    for count in itertools.count():
        for starts in itertools.combinations(range(len(targets)), count):
            if wanted <= {start + i for start in starts for i in range(width)}:
                return count
    raise AssertionError("one window for each target covers them all")


@given(scenes())
def test_windows_hold_all_targets_and_are_the_fewest(scene: tuple[list[list[bool]], int]) -> None:
    rows, width = scene
    windows = cover(torch.tensor(rows), width)
    assert windows.row.tolist() == sorted(windows.row.tolist())
    for number, targets in enumerate(rows):
        starts = windows.start[windows.row == number].tolist()
        assert len(starts) == fewest(targets, width)
        held = [start + i for start in starts for i in range(width)]
        assert {i for i, target in enumerate(targets) if target} <= set(held)
        assert len(held) == len(set(held)), "each position belongs to one window"
        assert all(targets[start] for start in starts)
        assert starts == sorted(starts)


def test_positions_run_from_the_start() -> None:
    windows = cover(torch.tensor([[False, True, False, False], [False, False, False, True]]), 3)
    assert windows.positions.tolist() == [[1, 2, 3], [3, 4, 5]]
