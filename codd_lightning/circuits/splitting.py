"""States put to use where a chain forgets what it should remember."""

import itertools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from codd_lightning.circuits.errors import CircuitError
from codd_lightning.circuits.forgetting import LEAST, Split, chance, find_splits, likelihood_gain
from codd_lightning.circuits.hmm import HMM
from codd_lightning.circuits.traces import Traces

LOOKBACK = 10  # positions before a state whose tokens it may have to remember
FREE = 10  # a state of fewer than 1 / (FREE · N) of the positions is free to become another's copy
SPENT = 0.5  # of the free states, at most, are given away at once: a later look may know better
WORTH = 6.0  # nats of the traced text, beyond chance, that a split must be worth
COST = 1.5  # nats that each of its copies must be worth
EXCLUSIVE = 0.97  # a state whose positions lie on the paths by more than this share remembers already
RARE = 0.03  # and one of fewer of the paths' positions than this is left out
PSEUDOCOUNT = 2.0  # of counts that are compared


@torch.no_grad()
def split_forgetful_states(circuit: HMM, traces: Traces) -> int:
    """Lets states remember what they forget, by copies of the paths that lead from it to them; in place.

    A chain forgets what came before a state, unless another state stands for each thing that matters. Where traces
    show that the next token or state depends on a token some positions before, beyond what the circuit expects, the
    states on the way are copied, and what follows one of two groups of tokens is led through the copies: the group that
    takes fewer of them. States that are free become the copies. The most nats for each copy come first, until none is
    worth its while. All are arranged anew by what they say (`arranged`).

    Args:
        circuit: homogeneous.
        traces: of its text; a thousand blocks and more.

    Returns:
        How many states became copies of others.

    Raises:
        CircuitError: the circuit has emissions of its own for each position.
    """
    if not circuit.homogeneous:
        raise CircuitError("states that differ by position are not split: use homogeneous=true")
    splitter = _Splitter(circuit, traces)
    splitter.copy_paths()
    _write(circuit, traces, splitter.states, splitter.source.to(circuit.initial_logits.device))
    return int((splitter.source != torch.arange(circuit.num_states)).sum())


@dataclass(frozen=True)
class _Path:
    """From one group of a split to the token after.

    Attributes:
        rows: `(R,)` long, the blocks that it leads through.
        where: `(R, L)` bool: what of them goes to copies.
        copied: states on it that must be copied.
        states: all that are met on it, copied or not.
    """

    rows: Tensor
    where: Tensor
    copied: list[int]
    states: set[int]


class _Splitter:
    """Traces, relabelled as if copies had been there; a circuit is asked for sizes alone.

    Attributes:
        states: `(B, L)` long, with the copies among them.
        source: `(N,)` long: what each state is a copy of, most of themselves.
    """

    def __init__(self, circuit: HMM, traces: Traces) -> None:
        self._num_states = circuit.num_states
        self._traces = traces
        self.states = traces.states.clone()
        self.source = torch.arange(circuit.num_states)
        self._said = self._tokens_of_states()
        self._group = torch.empty_like(self.source)
        usage = self._usage()
        self._free = []
        for number, group in enumerate(circuit.state_groups):
            self._group[group] = number
            rare = group[usage[group] * FREE * self._num_states < usage.sum()]
            rarest = rare[usage[rare].argsort()][: math.ceil(len(rare) * SPENT)]
            self._free.append(rarest.flip(0).tolist())  # the rarest is taken first

    def copy_paths(self) -> None:
        found: dict[int, list[Split]] = {}
        paths: dict[Split, list[_Path]] = {}
        changed = set(range(self._num_states))
        while any(self._free):
            for state in changed:
                found[state] = [
                    split for split in find_splits(self._traces, self.states, state, LOOKBACK) if split.gain >= WORTH
                ]
            paths = {split: both for split, both in paths.items() if not any(path.states & changed for path in both)}
            worth, best = COST, None
            for split in sorted(itertools.chain(*found.values()), key=lambda split: -split.gain):
                if split.gain < worth:
                    break
                if split not in paths:
                    paths[split] = [self._path(split, group) for group in split.groups]
                for path in paths[split]:
                    copied = path.copied
                    if copied and split.gain >= worth * len(copied) and self._affordable(copied):
                        worth, best = split.gain / len(copied), path
            if best is None:
                return
            changed = set(best.copied)
            there = self.states[best.rows]
            for state in best.copied:
                copy = self._free[int(self._group[state])].pop()
                self.source[copy] = self.source[state]
                there[best.where & (there == state)] = copy
                changed.add(copy)
            self.states[best.rows] = there
            self._said = self._tokens_of_states()

    def _path(self, split: Split, group: Tensor) -> "_Path":
        traces, back = self._traces, split.lookback
        ends = self.states[:, back:-1] == split.state
        ends &= group[traces.columns[:, : ends.shape[1]]]
        rows = ends.any(1).nonzero().flatten()
        ends, states, columns = ends[rows], self.states[rows], traces.columns[rows]
        where, after = (torch.zeros(states.shape, dtype=torch.bool) for _ in range(2))
        for offset in range(back + 1):
            where[:, offset : offset + ends.shape[1]] |= ends
        after[:, back + 1 :] = ends
        on_path = _count(states[where], self._num_states)
        free = torch.zeros(self._num_states, dtype=torch.bool)
        free[list(itertools.chain(*self._free))] = True
        shared = (on_path > RARE * ends.sum()) & (on_path < EXCLUSIVE * self._usage()) & ~free
        copied = shared.nonzero().flatten().tolist()
        otherwise = self._say_otherwise(states[after], columns[after])
        ends_too = otherwise[~(shared | free)[otherwise]]
        met = set(states[where | after].tolist())
        where |= after & torch.isin(states, ends_too)
        return _Path(rows, where, copied + ends_too.tolist(), met)

    def _say_otherwise(self, states: Tensor, columns: Tensor) -> Tensor:
        """Of some positions, the states whose tokens differ there from elsewhere by what a copy is worth."""
        states, which = states.unique(return_inverse=True)
        size = self._traces.expected.shape[-1]
        here = _count_pairs(which, columns, len(states), size)
        counts = torch.stack([here, self._said[states] - here], 1)  # (S, 2, W)
        independent = counts.sum(2, keepdim=True) * counts.sum(1, keepdim=True)
        independent /= counts.sum((1, 2), keepdim=True).clamp_min(1.0)
        gains = likelihood_gain(counts, independent).sum(1)
        by_chance = chance(torch.tensor(2), (counts.sum(1) > 0).sum(1))
        return states[gains - by_chance > WORTH]

    def _tokens_of_states(self) -> Tensor:
        """`(N, W)`: how often each state emits a token of each column."""
        return _count_pairs(self.states, self._traces.columns, self._num_states, self._traces.expected.shape[-1])

    def _usage(self) -> Tensor:
        return _count(self.states, self._num_states)

    def _affordable(self, copied: list[int]) -> bool:
        needed = torch.bincount(self._group[copied], minlength=len(self._free))
        return all(int(count) <= len(free) for count, free in zip(needed, self._free, strict=True))


def _write(circuit: HMM, traces: Traces, states: Tensor, source: Tensor) -> None:
    """Makes copies of states what relabelled traces show them to be.

    Logits change by the log of what is counted over what is expected of copies that are all alike.
    """
    device = circuit.initial_logits.device
    size = circuit.num_states
    now, tokens = states.to(device), traces.tokens.to(device)
    then = source[now]
    copies = source != torch.arange(size, device=device)
    touched = copies.index_fill(0, source[copies], True)
    uses, used = (_count(labels, size) for labels in (now, then))
    share = (uses / used[source].clamp_min(1.0)).clamp_min(LEAST)

    def change(found: Tensor, hoped: Tensor) -> Tensor:
        return ((found + PSEUDOCOUNT) / (hoped + PSEUDOCOUNT)).log()

    led, led_then = (_count_pairs(labels[:, :-1], labels[:, 1:], size, size) for labels in (now, then))
    usual = led_then / led_then.sum(1, keepdim=True).clamp_min(1.0)
    transition = share.log() + change(led, led.sum(1, keepdim=True) * usual[source][:, source] * share)
    first, first_then = (_count(labels[:, 0], size) for labels in (now, then))
    initial = share.log() + change(first, first_then[source] * share)
    said, said_then = (_count_pairs(labels, tokens, size, circuit.vocab_size) for labels in (now, then))
    emission = change(said, uses[:, None] * (said_then / used.clamp_min(1.0)[:, None])[source])

    order = circuit.arranged(said)
    circuit.take_states(source[order])
    circuit.transition_logits[0] += torch.where(touched[:, None] | touched, transition, 0.0)[order][:, order]
    circuit.initial_logits.add_(torch.where(touched, initial, 0.0)[order])
    circuit.emission_logits[0] += torch.where(touched[:, None], emission, 0.0)[order].T


def _count(labels: Tensor, size: int) -> Tensor:
    return torch.bincount(labels.flatten(), minlength=size).float()


def _count_pairs(first: Tensor, second: Tensor, size: int, columns: int) -> Tensor:
    """`(size, columns)`: how often each pair of labels occurs."""
    return _count(first * columns + second, size * columns).view(size, columns)
