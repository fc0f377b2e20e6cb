"""List tasks: all right answers are known, and with them everything about the factorization barrier.

The kinds follow ParallelBench's idea (arXiv 2510.04767) that parallel decoding shows its limits
where outputs depend on each other; `cities` is the paper's Figure 1.
"""

import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass

from codd_lightning.errors import UserError
from codd_lightning.tasks.answers import Answer, Answers
from codd_lightning.tasks.base import Example, Grade
from codd_lightning.tasks.rules import (
    inserted,
    insertions,
    is_shuffled,
    new_in_each_column,
    removals,
    removed,
    replaced,
    replacements,
)

ITEMS = tuple("abcdefghijklmnop")
MARKER = "x"
CITIES = (("new", "york"), ("san", "diego"), ("los", "angeles"), ("las", "vegas"))


def _orders(items: Answer, place: int) -> list[Answer]:
    return list(itertools.permutations(items))


def _latin(items: Answer, place: int) -> list[Answer]:
    """Latin squares, row after row."""
    rows = _orders(items, 0)
    squares: list[Answer] = [()]
    for _ in items:
        squares = [square + row for square in squares for row in rows if new_in_each_column(square, row)]
    return squares


# From items and a place to all right answers. Those "at" a place have one.
KINDS: dict[str, Callable[[Answer, int], list[Answer]]] = {
    "copy": lambda items, place: [items],
    "reverse": lambda items, place: [items[::-1]],
    "sort": lambda items, place: [tuple(sorted(items))],
    "insert_at": lambda items, place: [inserted(items, place, MARKER)],
    "remove_at": lambda items, place: [removed(items, place)],
    "replace_at": lambda items, place: [replaced(items, place, MARKER)],
    "insert": lambda items, place: insertions(items, MARKER),
    "remove": lambda items, place: removals(items),
    "replace": lambda items, place: replacements(items, MARKER),
    "permutation": _orders,
    "shuffle": lambda items, place: [order for order in _orders(items, place) if is_shuffled(order, items)],
    "latin": _latin,
    "cities": lambda items, place: list(CITIES),
}


@dataclass(frozen=True)
class ListTask:
    """Problems of one kind: a prompt `kind place : items =`, and its right answers, all equally likely.

    Attributes:
        kind: see `KINDS`.
        items: n, words of a list.
        varies: whether each problem has its own words and order; else all have the same.
        pool: how many words lists are drawn from, if they vary.

    Raises:
        UserError: there is no such kind, or it has too many answers.
    """

    kind: str = "permutation"
    items: int = 4
    varies: bool = False
    pool: int = 8

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UserError(f"data.task.kind={self.kind} is not one of {', '.join(KINDS)}")
        if not 2 <= self.items <= self.pool <= len(ITEMS):
            raise UserError(
                f"data.task.items={self.items} must be at least 2 and at most data.task.pool={self.pool}, "
                f"which is at most {len(ITEMS)}"
            )
        most = {"latin": 4, "permutation": 8, "shuffle": 8}.get(self.kind, self.items)
        if self.items > most:
            raise UserError(f"data.task.items={self.items}: {self.kind} of more than {most} has too many answers")

    def size(self, split: str) -> None:
        return None

    def example(self, split: str, index: int, seed: int) -> Example:
        chance = random.Random(f"{seed}/{split}/{index}/{self.kind}")
        words = tuple(chance.sample(ITEMS[: self.pool], self.items)) if self.varies else ITEMS[: self.items]
        place = chance.randrange(self.items) if self.varies and self.kind.endswith("_at") else 1
        prompt = f"{self.kind} {place} : {' '.join(words)} ="
        answers = self.answers(prompt)
        return Example(prompt, " ".join(chance.choice(answers.listed)), answers)

    def answers(self, prompt: str) -> Answers:
        """All right answers to a prompt of this task.

        Raises:
            UserError: it is none.
        """
        head, _, items = prompt.partition(" : ")
        words = items.removesuffix("=").split()
        kind, _, place = head.partition(" ")
        if kind != self.kind or not place.isdecimal() or not words:
            raise UserError(f"{prompt!r} is not a prompt of the list task {self.kind}")
        if len(set(words)) != len(words) or len(words) != self.items or int(place) >= self.items:
            raise UserError(f"{prompt!r} must list {self.items} different words, and a place below {self.items}")
        return Answers(KINDS[kind](tuple(words), int(place)))

    def grade(self, example: Example, response: str, ended: bool) -> Grade:
        """Strict: a right answer, ended by itself; flexible: a right answer."""
        right = tuple(response.split()) in example.problem
        return Grade(strict=right and ended, flexible=right)

    @property
    def vocabulary(self) -> list[str]:
        """Every word of prompts and answers."""
        cities = [word for city in CITIES for word in city] if self.kind == "cities" else []
        numbers = [str(i) for i in range(self.items + 1)]
        return [self.kind, ":", "=", MARKER, *numbers, *ITEMS[: self.pool], *cities]
