"""Multiple choice: the answer is a letter."""

import re
from typing import ClassVar

from codd_lightning.tasks.base import Example, Grade


class ChoiceGrader:
    r"""Strict: the response is the letter, or says last that the answer is it, and EOS; flexible: so does any mention.

    `Example.problem["letter"]` is the right one, `["choices"]` the texts. Said is "answer is (B)", "Answer: B" or
    `\boxed{B}`; mentioned, where nothing is said, is the last letter in brackets, or else the last alone.
    """

    reader: ClassVar[str | None] = "choice"

    def fault(self, example: Example) -> str | None:
        return None

    def grade(self, example: Example, response: str, ended: bool) -> Grade:
        right = example.problem["letter"]
        letters = f"[A-{chr(ord('A') + len(example.problem['choices']) - 1)}]"
        whole = re.fullmatch(rf"\s*\(?({letters})\)?\.?\s*", response)
        said = [whole[1]] if whole else _found(rf"(?i:answer)(?i:\s+is)?:?[\s*]*\(?({letters})\b", response)
        said = said or _found(rf"\\boxed{{(?:\\text{{)?\(?({letters})\)?}}", response)
        mentioned = said or _found(rf"\(({letters})\)", response) or _found(rf"(?<!\w)({letters})(?!\w)", response)
        return Grade(strict=ended and said[-1:] == [right], flexible=mentioned[-1:] == [right])


def _found(pattern: str, text: str) -> list[str]:
    return re.findall(pattern, text)
