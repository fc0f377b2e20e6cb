"""ParallelBench's problems as we grade them: how answers are read, and which are right. The rules are our own."""

import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from codd_lightning.tasks.answers import Answer
from codd_lightning.tasks.base import Grade
from codd_lightning.tasks.rules import insertions, is_latin_square, is_shuffled, is_sudoku, removals, replacements

_SEPARATORS = re.compile(r"[\s,|]+")


@dataclass(frozen=True)
class Problem:
    """What the grader needs to know of a problem.

    Attributes:
        subtask: its name in the benchmark, such as `waiting_line/shuffle`.
        metric: what the benchmark grades it by; a key of `RULES`.
        given: the list, the symbols, or the puzzle row after row ("" where nothing stands) that it starts from; the
            one right answer where there is one.
        word: what is put into the list, if anything.
    """

    subtask: str
    metric: str
    given: Answer
    word: str = ""


@dataclass(frozen=True)
class Rule:
    """How answers of one kind are graded.

    Attributes:
        exact: a response that is an answer in the expected form and nothing else, as its items; None if it is not.
        found: the last answer somewhere in a response; None if there is none.
        right: whether an answer is right.
    """

    exact: Callable[[str, Problem], Answer | None]
    found: Callable[[str, Problem], Answer | None]
    right: Callable[[Answer, Problem], bool]


def grade(problem: Problem, response: str, ended: bool) -> Grade:
    """Strict: a right answer in the expected form, nothing else, and EOS; flexible: the last answer in it is right."""
    rule = RULES[problem.metric]
    exact, found = rule.exact(response, problem), rule.found(response, problem)
    form = exact is not None and rule.right(exact, problem)
    return Grade(strict=ended and form, flexible=form or (found is not None and rule.right(found, problem)))


def exact_list(response: str) -> Answer | None:
    """The items of a JSON list of texts."""
    try:
        items = json.loads(response)
    except (ValueError, RecursionError):
        return None
    if not isinstance(items, list) or not all(isinstance(item, str) for item in items):
        return None
    return tuple(items)


def _found_list(response: str) -> Answer:
    """What stands between the last brackets, or anywhere where there are none, split at commas, without quotes."""
    inside = response.rpartition("[")[2].partition("]")[0]
    return tuple(item for part in inside.split(",") if (item := part.strip(" \t\r\n\"'")))


def _exact_csv(response: str, size: int) -> Answer | None:
    """The cells of as many lines of as many values with commas between them."""
    return _square([[cell.strip() for cell in line.split(",")] for line in response.strip().split("\n")], size)


def exact_digits(response: str, size: int) -> Answer | None:
    """The cells of as many lines of as many characters."""
    return _square([list(line.strip()) for line in response.strip().split("\n")], size)


def _found_square(response: str, symbols: Sequence[str]) -> Answer | None:
    """The cells of the last lines that hold as many symbols as there are, with or without something between them."""
    rows = []
    for line in response.split("\n"):
        values = _SEPARATORS.sub(" ", line).split()
        for cells in (values, list("".join(values))):
            if len(cells) == len(symbols) and set(cells) <= set(symbols):
                rows.append(cells)
                break
    return _square(rows[-len(symbols) :], len(symbols))


def _square(rows: list[list[str]], size: int) -> Answer | None:
    if len(rows) != size or any(len(row) != size for row in rows):
        return None
    return tuple(cell for row in rows for cell in row)


def _digits(problem: Problem) -> list[str]:
    """Of the square that a puzzle is: 1 to its width."""
    return [str(digit) for digit in range(1, math.isqrt(len(problem.given)) + 1)]


def _of_a_list(right: Callable[[Answer, Problem], bool]) -> Rule:
    return Rule(lambda text, problem: exact_list(text), lambda text, problem: _found_list(text), right)


# By the names that the benchmark's configuration gives its metrics.
RULES: dict[str, Rule] = {
    "list_match_score": _of_a_list(lambda answer, problem: answer == problem.given),
    "list_shuffle_score": _of_a_list(lambda answer, problem: is_shuffled(answer, problem.given)),
    "list_random_insert_score": _of_a_list(
        lambda answer, problem: answer in insertions(problem.given, problem.word),
    ),
    "list_random_remove_score": _of_a_list(lambda answer, problem: answer in removals(problem.given)),
    "list_random_replace_score": _of_a_list(
        lambda answer, problem: answer in replacements(problem.given, problem.word),
    ),
    "latin_square_score": Rule(
        lambda text, problem: _exact_csv(text, len(problem.given)),
        lambda text, problem: _found_square(text, problem.given),
        lambda answer, problem: is_latin_square(answer, problem.given),
    ),
    "sudoku_score": Rule(
        lambda text, problem: exact_digits(text, len(_digits(problem))),
        lambda text, problem: _found_square(text, _digits(problem)),
        lambda answer, problem: is_sudoku(answer, problem.given),
    ),
}
