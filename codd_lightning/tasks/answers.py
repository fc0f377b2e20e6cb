"""All right answers of a problem, each equally likely, and what follows from them exactly."""

import itertools
import math
from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Answer = tuple[str, ...]


class Answers:
    """A list of right answers of one length, each as likely as any other.

    Args:
        listed: the answers, no two alike.
    """

    def __init__(self, listed: Sequence[Answer]) -> None:
        self.listed = list(listed)
        self.length = len(self.listed[0])
        self.words = sorted({word for answer in self.listed for word in answer})
        place = {word: i for i, word in enumerate(self.words)}
        self._table: NDArray[np.int64] = np.array([[place[word] for word in answer] for answer in self.listed])
        self._right = set(self.listed)

    def __len__(self) -> int:
        return len(self.listed)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Answers) and self.listed == other.listed

    def __hash__(self) -> int:
        return hash(tuple(self.listed))

    def __contains__(self, answer: object) -> bool:
        return answer in self._right

    def marginals(self, known: Mapping[int, str]) -> NDArray[np.float64] | None:
        """Of each word at each position, given some words: `(L, W)`, W in order of `words`; None if no answer fits."""
        fitting = self._fitting(known)
        if not len(fitting):
            return None
        columns = np.arange(self.length)
        counts = np.zeros((self.length, len(self.words)))
        np.add.at(counts, (np.broadcast_to(columns, fitting.shape), fitting), 1.0)
        return counts / len(fitting)

    @cached_property
    def total_correlation(self) -> float:
        """`Σ_i H(x_i) − H(x)`, nats: what any factorized one-step prediction must lose."""
        marginals = self.marginals({})
        assert marginals is not None, "there is an answer"
        entropies = -np.sum(marginals * np.log(np.where(marginals > 0, marginals, 1.0)))
        return float(entropies) - math.log(len(self))

    @cached_property
    def one_step_right(self) -> float:
        """Chance that words drawn from the true marginals, each by itself, form a right answer."""
        return float(self.factorized.sum())

    @cached_property
    def factorized(self) -> NDArray[np.float64]:
        """`Π_i p(x_i)` of each answer, `(S,)`."""
        marginals = self.marginals({})
        assert marginals is not None, "there is an answer"
        chances: NDArray[np.float64] = np.prod(marginals[np.arange(self.length), self._table], axis=1)
        return chances

    def random_order_right(self, quotas: Sequence[int]) -> float:
        """Chance of a right answer when each step draws so many random positions from the true conditional marginals.

        Exact, over all orders and draws; for short answers.
        """
        return self._chance({}, list(quotas))

    def _chance(self, known: dict[int, str], quotas: list[int]) -> float:
        if not quotas:
            return 1.0
        marginals = self.marginals(known)
        if marginals is None:
            return 0.0
        open_ = [i for i in range(self.length) if i not in known]
        chosen = list(itertools.combinations(open_, min(quotas[0], len(open_))))
        fitting = self._fitting(known)
        total = 0.0
        for positions in chosen:
            for drawn in {tuple(row) for row in fitting[:, list(positions)].tolist()}:
                chance = float(np.prod([marginals[i, word] for i, word in zip(positions, drawn, strict=True)]))
                further = {i: self.words[word] for i, word in zip(positions, drawn, strict=True)}
                total += chance * self._chance({**known, **further}, quotas[1:])
        return total / len(chosen)

    def _fitting(self, known: Mapping[int, str]) -> NDArray[np.int64]:
        """Rows of the answers that agree with what is known."""
        fits = np.ones(len(self), dtype=bool)
        for position, word in known.items():
            if word not in self.words:
                return self._table[:0]
            fits &= self._table[:, position] == self.words.index(word)
        return self._table[fits]
