r"""Mathematical answers: equal as expressions, whatever their notation."""

import re
from typing import ClassVar

from codd_lightning.tasks.base import Example, Grade
from codd_lightning.tasks.graders.equality import equal_answers


class MathGrader:
    r"""Strict: the last `\boxed{}` equals the reference's, and EOS; flexible: so does what math_verify finds.

    The reference is the last `\boxed{}` of `Example.response`, or all of it where there is none.
    """

    reader: ClassVar[str | None] = None

    def fault(self, example: Example) -> str | None:
        expected = last_boxed(example.response)
        return r"the last \boxed{} of the response is empty" if expected is not None and not expected.strip() else None

    def grade(self, example: Example, response: str, ended: bool) -> Grade:
        expected, said = last_boxed(example.response), last_boxed(response)
        if said is not None and expected is not None and _squeezed(said) == _squeezed(expected):
            return Grade(strict=ended, flexible=True)
        reference = example.response if expected is None else rf"\boxed{{{expected}}}"
        boxed = [] if said is None else [rf"\boxed{{{said}}}"]
        *strict, flexible = equal_answers(reference, [*boxed, response])
        return Grade(strict=ended and strict == [True], flexible=flexible)


def last_boxed(text: str) -> str | None:
    r"""What stands in the last whole `\boxed{}` of a text; None where there is none."""
    for start in reversed([match.end() for match in re.finditer(r"\\boxed\s*{", text)]):
        depth = 1
        for i, sign in enumerate(text[start:]):
            depth += {"{": 1, "}": -1}.get(sign, 0)
            if not depth:
                return text[start : start + i]
    return None


def _squeezed(text: str) -> str:
    return re.sub(r"\s+", "", text)
