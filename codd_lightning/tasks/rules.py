"""What counts as right for lists and squares: the rules that our list tasks and ParallelBench's share."""

import math
from collections.abc import Sequence

from codd_lightning.tasks.answers import Answer


def inserted(items: Answer, place: int, word: str) -> Answer:
    """A list with a word put before the item at a place, from 0; at the end for the list's length."""
    return (*items[:place], word, *items[place:])


def replaced(items: Answer, place: int, word: str) -> Answer:
    """A list with a word in place of one item."""
    return (*items[:place], word, *items[place + 1 :])


def removed(items: Answer, place: int) -> Answer:
    """A list without one item."""
    return (*items[:place], *items[place + 1 :])


def insertions(items: Answer, word: str) -> list[Answer]:
    """All n + 1 ways to put a word into a list."""
    return [inserted(items, place, word) for place in range(len(items) + 1)]


def replacements(items: Answer, word: str) -> list[Answer]:
    """All n ways to put a word in place of an item."""
    return [replaced(items, place, word) for place in range(len(items))]


def removals(items: Answer) -> list[Answer]:
    """All n ways to leave out an item."""
    return [removed(items, place) for place in range(len(items))]


def is_shuffled(answer: Answer, items: Answer) -> bool:
    """Whether an answer holds the same items in another order."""
    return answer != items and sorted(answer) == sorted(items)


def new_in_each_column(square: Answer, row: Answer) -> bool:
    """Whether a row repeats nothing of the rows above it, which are given one after the other."""
    return all(word not in square[column :: len(row)] for column, word in enumerate(row))


def is_latin_square(square: Answer, symbols: Sequence[str]) -> bool:
    """Whether each symbol stands once in each row and each column of a square, given row after row."""
    size = len(symbols)
    rows = [square[start : start + size] for start in range(0, len(square), size)]
    return len(square) == size**2 and all(
        sorted(row) == sorted(symbols) and new_in_each_column(square[: i * size], row) for i, row in enumerate(rows)
    )


def is_sudoku(square: Answer, puzzle: Answer) -> bool:
    """Whether a square solves a puzzle: a Latin square of the digits from 1 whose boxes hold each digit once.

    Args:
        square: the digits, row after row.
        puzzle: the same with the empty string where nothing is given.
    """
    size = math.isqrt(len(puzzle))
    side = math.isqrt(size)
    digits = [str(digit) for digit in range(1, size + 1)]
    if not is_latin_square(square, digits):
        return False
    corners = [row * size + column for row in range(0, size, side) for column in range(0, size, side)]
    boxes = [
        [square[corner + row * size + column] for row in range(side) for column in range(side)] for corner in corners
    ]
    kept = all(given in ("", found) for given, found in zip(puzzle, square, strict=True))
    return kept and all(sorted(box) == digits for box in boxes)
