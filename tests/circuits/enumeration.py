"""Circuits and evidence by full enumeration in float64 numpy, sharing no code with what is tested."""

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Ints = NDArray[np.int64]


def softmax(logits: Array, axis: int = -1) -> Array:
    shifted = np.exp(logits - logits.max(axis=axis, keepdims=True))
    return shifted / shifted.sum(axis=axis, keepdims=True)


def tuples(size: int, length: int) -> Ints:
    """Every tuple of `length` numbers below `size`, `(size ** length, length)`."""
    return np.array(list(itertools.product(range(size), repeat=length)), dtype=np.int64)


@dataclass(frozen=True)
class Model:
    """An HMM as one distribution per position: initial `(N,)`, transition `(L-1, N, N)`, emission `(L, N, V)`."""

    initial: Array
    transition: Array
    emission: Array

    @property
    def num_states(self) -> int:
        return len(self.initial)

    @property
    def vocab_size(self) -> int:
        return self.emission.shape[-1]

    def table(self, weights: Array, potentials: Array | None = None) -> Array:
        """Mass of every (completion, path) of one block: `(V^L, N^L)`, in the order of `tuples`.

        Args:
            weights: `(L, V)`, of every token at every position of the block.
            potentials: `(L, N)` log potentials over states.
        """
        length = len(weights)
        sequences, paths = tuples(self.vocab_size, length), tuples(self.num_states, length)
        mass = np.ones((len(sequences), len(paths))) * self.initial[paths[:, 0]]
        for i in range(length):
            states, tokens = paths[:, i], sequences[:, i]
            if i:
                mass = mass * self.transition[i - 1][paths[:, i - 1], states]
            if potentials is not None:
                mass = mass * np.exp(potentials[i, states])
            mass = mass * self.emission[i][states][:, tokens].T * weights[i, tokens][:, None]
        return mass


def log(values: Array) -> Array:
    with np.errstate(divide="ignore"):
        return np.log(values)


def agreeing(sequences: Ints, tokens: Ints, where: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which of `(S, L)` sequences have the given tokens at the positions of `where`."""
    return np.all((sequences == tokens) | ~where, axis=1)


def token_marginals(table: Array, vocab_size: int, length: int) -> Array:
    """`(L, V)` from a table of masses."""
    mass, sequences = table.sum(1), tuples(vocab_size, length)
    counts = [[mass[sequences[:, i] == v].sum() for v in range(vocab_size)] for i in range(length)]
    return np.array(counts) / mass.sum()


def soft_weights(
    logits: Array, temperature: float, mask_token_id: int, top_k: int | None = None, keep: int | None = None
) -> Array:
    """What one masked position weighs, `(V,)`: softmax without the mask token; its tail spread evenly."""
    scores = logits.copy()
    if 0 <= mask_token_id < len(logits):
        scores[mask_token_id] = -np.inf
    weights = softmax(scores / temperature)
    if top_k is None or top_k >= len(weights):
        return weights
    order = sorted(range(len(weights)), key=lambda v: (v != keep, -weights[v]))
    kept, left_out = order[:top_k], order[top_k:]
    spread = weights.copy()
    spread[left_out] = (1.0 - weights[kept].sum()) / len(left_out)
    return spread
