"""Answers that are numbers, as GSM8K writes them: the last line is `#### 42`."""

from typing import ClassVar

from codd_lightning.tasks.base import Example, Grade, last_number


class NumberGrader:
    """Strict: the number after the one `####` is the reference's, and EOS; flexible: the last number is.

    Where the reference's answer has no number, its words take the number's place.
    """

    reader: ClassVar[str | None] = None

    def fault(self, example: Example) -> str | None:
        return None if _answer(example) else "nothing stands after the last #### of the response"

    def grade(self, example: Example, response: str, ended: bool) -> Grade:
        reference = _answer(example)
        expected = last_number(reference)
        parts = response.split("####")
        if expected is None:
            strict, flexible = parts[-1].strip() == reference != "", reference != "" and reference in response
        else:
            strict, flexible = last_number(parts[-1]) == expected, last_number(response) == expected
        return Grade(strict=ended and len(parts) == 2 and strict, flexible=flexible)


def _answer(example: Example) -> str:
    return example.response.rsplit("####", 1)[-1].strip()
