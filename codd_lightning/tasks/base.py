"""What a task is: examples by index, and grades for the responses to them."""

import re
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

SPLITS = ("train", "validation", "test")
_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")


@dataclass(frozen=True)
class Example:
    """A prompt, one right response to it, and what the grader needs to know of the problem.

    Attributes:
        turns: worked examples before it, (prompt, response) each: earlier turns of the conversation.
    """

    prompt: str
    response: str
    problem: Any = field(default=None, repr=False)
    turns: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Grade:
    """Two verdicts on one response, always reported together.

    Attributes:
        strict: the whole response is one that the task accepts, and it ended by itself (EOS).
        flexible: the last number of the response is the right answer.
    """

    strict: bool
    flexible: bool


@runtime_checkable
class Task(Protocol):
    """A source of examples with answers that can be checked."""

    def size(self, split: str) -> int | None:
        """Number of examples of a split; None where they are generated without end."""
        ...

    def example(self, split: str, index: int, seed: int) -> Example:
        """Example `index` of a split; the same arguments give the same example."""
        ...

    def grade(self, example: Example, response: str, ended: bool) -> Grade:
        """Grades a response; `ended` says whether it closed with an end-of-sequence token."""
        ...


def last_number(text: str) -> float | None:
    """The last number written in a text, thousands separators removed; None where there is none."""
    numbers = _NUMBER.findall(text)
    return float(numbers[-1].replace(",", "")) if numbers else None
