"""Circuits in closed form are the distributions that they say; what does not fit is refused."""

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from codd_lightning.circuits import HMM, CircuitError, insertion_hmm, permutation_hmm, replacement_hmm

EOS, MARKER, VOCABULARY = 6, 5, 7


def table(circuit: HMM, length: int) -> dict[tuple[int, ...], float]:
    """Every completion with probability."""
    listed = list(itertools.product(range(VOCABULARY), repeat=length))
    chances = circuit.log_prob(torch.tensor(listed)).exp().tolist()
    return {x: p for x, p in zip(listed, chances, strict=True) if p > 0}


@pytest.mark.parametrize("room", [0, 2])
def test_every_order_is_as_likely(room: int) -> None:
    found = table(permutation_hmm([0, 2, 4], EOS, VOCABULARY, 3 + room), 3 + room)
    expected = {(*order, *[EOS] * room) for order in itertools.permutations([0, 2, 4])}
    assert set(found) == expected
    assert all(p == pytest.approx(1 / math.factorial(3), abs=1e-6) for p in found.values())


@pytest.mark.parametrize("weights", [None, [1.0, 2.0, 3.0], [0.0, 1.0, 0.0]])
def test_a_marker_replaces_one_token_by_its_weight(weights: list[float] | None) -> None:
    found = table(replacement_hmm([0, 1, 2], MARKER, EOS, VOCABULARY, 4, weights), 4)
    shares = weights or [1.0, 1.0, 1.0]
    answers = [(MARKER, 1, 2, EOS), (0, MARKER, 2, EOS), (0, 1, MARKER, EOS)]
    expected = {x: share / sum(shares) for x, share in zip(answers, shares, strict=True) if share}
    assert found == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("weights", [None, [1.0, 2.0, 3.0, 4.0], [0.0, 0.0, 0.0, 1.0]])
def test_a_marker_is_inserted_by_its_weight(weights: list[float] | None) -> None:
    found = table(insertion_hmm([0, 1, 2], MARKER, EOS, VOCABULARY, 4, weights), 4)
    shares = weights or [1.0] * 4
    answers = [(MARKER, 0, 1, 2), (0, MARKER, 1, 2), (0, 1, MARKER, 2), (0, 1, 2, MARKER)]
    expected = {x: share / sum(shares) for x, share in zip(answers, shares, strict=True) if share}
    assert found == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("build", "arguments"),
    [
        (permutation_hmm, ([0, 9], EOS, VOCABULARY, 3)),
        (permutation_hmm, ([0, -2], EOS, VOCABULARY, 3)),
        (permutation_hmm, ([0, 1], 7, VOCABULARY, 3)),
        (permutation_hmm, ([0, 0], EOS, VOCABULARY, 3)),
        (permutation_hmm, ([0, 1, 2], EOS, VOCABULARY, 2)),
        (permutation_hmm, ([], EOS, VOCABULARY, 2)),
        (replacement_hmm, ([], MARKER, EOS, VOCABULARY, 3)),
        (insertion_hmm, ([], MARKER, EOS, VOCABULARY, 3)),
        (insertion_hmm, ([0, 1, 2], MARKER, EOS, VOCABULARY, 3)),
        (insertion_hmm, ([0, 1], MARKER, EOS, VOCABULARY, 3, [1.0])),
    ],
)
def test_what_does_not_fit_is_refused(build: Callable[..., HMM], arguments: tuple[Any, ...]) -> None:
    with pytest.raises(CircuitError):
        build(*arguments)
