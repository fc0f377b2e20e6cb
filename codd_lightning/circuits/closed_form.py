"""Circuits that are built, not trained: joint distributions over lists that can be written down.

All are homogeneous HMMs that emit one token a state, and EOS once the list is done.
"""

import itertools
from collections.abc import Sequence

import torch

from codd_lightning.circuits.errors import CircuitError
from codd_lightning.circuits.hmm import HMM


def permutation_hmm(items: Sequence[int], eos: int, vocab_size: int, block_length: int) -> HMM:
    """Any order of n distinct tokens, all equally likely: n·2^(n−1) states (set of items used, last item), and the end.

    Args:
        items: n token ids.
        eos: what follows the list.
        vocab_size: V.
        block_length: n or more.
    """
    n = len(items)
    _check(items, [eos], vocab_size, block_length, n)
    if len(set(items)) != n:
        raise CircuitError(f"items must be distinct, not {list(items)}")
    states = [
        (frozenset(used), last)
        for size in range(1, n + 1)
        for used in itertools.combinations(range(n), size)
        for last in used
    ]
    chain = _Chain(len(states))
    number = {state: i for i, state in enumerate(states)}
    for (used, last), i in number.items():
        chain.emits[i] = items[last]
        if len(used) == 1:
            chain.starts[i] = 1.0 / n
        for following in set(range(n)) - used:
            chain.leads(i, number[used | {following}, following], 1.0 / (n - len(used)))
        if len(used) == n:
            chain.ends(i)
    return chain.hmm(eos, vocab_size, block_length)


def replacement_hmm(
    items: Sequence[int],
    marker: int,
    eos: int,
    vocab_size: int,
    block_length: int,
    weights: Sequence[float] | None = None,
) -> HMM:
    """One of n listed tokens replaced by a marker: 3n states (place, before, at or after the marker), and the end.

    Args:
        items: the list, n token ids.
        marker: what stands in for one of them.
        eos, vocab_size, block_length: as for `permutation_hmm`.
        weights: of the n places; equal if None.
    """
    n = len(items)
    _check(items, [marker, eos], vocab_size, block_length, n)
    slots = _shares(weights, n)
    chain = _Chain(3 * n)
    before, at, after = range(n), range(n, 2 * n), range(2 * n, 3 * n)
    for i, token in enumerate(items):
        chain.emits[before[i]] = chain.emits[after[i]] = token
        chain.emits[at[i]] = marker
        if i + 1 < n:
            left = sum(slots[i + 1 :])  # of what is not decided yet at place i
            now = slots[i + 1] / left if left else 1.0
            chain.leads(before[i], at[i + 1], now)
            chain.leads(before[i], before[i + 1], 1.0 - now if i + 2 < n else 0.0)
            chain.leads(at[i], after[i + 1], 1.0)
            chain.leads(after[i], after[i + 1], 1.0)
    chain.starts[at[0]], chain.starts[before[0]] = slots[0], 1.0 - slots[0]
    for last in (before[-1], at[-1], after[-1]):
        chain.ends(last)
    return chain.hmm(eos, vocab_size, block_length)


def insertion_hmm(
    items: Sequence[int],
    marker: int,
    eos: int,
    vocab_size: int,
    block_length: int,
    weights: Sequence[float] | None = None,
) -> HMM:
    """A marker inserted somewhere into a list of n tokens: 3n + 1 states, and the end.

    Args:
        items: the list, n token ids.
        marker: what is inserted.
        eos, vocab_size, block_length: as for `permutation_hmm`; the answers have n + 1 tokens.
        weights: of the n + 1 places, from before the first to after the last token; equal if None.
    """
    n = len(items)
    _check(items, [marker, eos], vocab_size, block_length, n + 1)
    slots = _shares(weights, n + 1)
    chain = _Chain(3 * n + 1)
    before, after, at = range(n), range(n, 2 * n), range(2 * n, 3 * n + 1)
    for i, token in enumerate(items):
        chain.emits[before[i]] = chain.emits[after[i]] = token
        left = sum(slots[i + 1 :])
        now = slots[i + 1] / left if left else 1.0
        chain.leads(before[i], at[i + 1], now)
        if i + 1 < n:
            chain.leads(before[i], before[i + 1], 1.0 - now)
            chain.leads(after[i], after[i + 1], 1.0)
        chain.leads(at[i], after[i], 1.0)
    for i in range(n + 1):
        chain.emits[at[i]] = marker
    chain.starts[at[0]], chain.starts[before[0]] = slots[0], 1.0 - slots[0]
    for last in (after[-1], at[-1]):
        chain.ends(last)
    return chain.hmm(eos, vocab_size, block_length)


class _Chain:
    """States, each with its token, its chance to be the first, and where it leads; one more is the end."""

    def __init__(self, num_states: int) -> None:
        self.emits = [-1] * num_states
        self.starts = torch.zeros(num_states + 1, dtype=torch.float64)
        self._transition = torch.zeros(num_states + 1, num_states + 1, dtype=torch.float64)
        self._transition[-1, -1] = 1.0

    def leads(self, state: int, following: int, chance: float) -> None:
        self._transition[state, following] += chance

    def ends(self, state: int) -> None:
        self._transition[state, -1] = 1.0

    def hmm(self, eos: int, vocab_size: int, block_length: int) -> HMM:
        emission = torch.zeros(len(self._transition), vocab_size, dtype=torch.float64)
        emission[range(len(self.emits)), self.emits] = 1.0
        emission[-1, eos] = 1.0
        return HMM.from_probabilities(self.starts.float(), self._transition.float(), emission.float(), block_length)


def _check(items: Sequence[int], others: Sequence[int], vocab_size: int, block_length: int, needed: int) -> None:
    if not items:
        raise CircuitError("a list needs at least one item")
    tokens = [*items, *others]
    if min(tokens) < 0 or max(tokens) >= vocab_size:
        raise CircuitError(f"token ids must lie in [0, {vocab_size}), not {list(tokens)}")
    if block_length < needed:
        raise CircuitError(f"block_length={block_length} has no room for answers of {needed} tokens")


def _shares(weights: Sequence[float] | None, count: int) -> list[float]:
    if weights is None:
        return [1.0 / count] * count
    if len(weights) != count or min(weights) < 0 or not sum(weights) > 0:
        raise CircuitError(f"weights must be {count} numbers of at least 0, not all 0, instead of {list(weights)}")
    return [weight / sum(weights) for weight in weights]
