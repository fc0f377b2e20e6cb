"""Answers that are numbers, as GSM8K writes them: the last line is `#### 42`."""

from codd_lightning.tasks.base import Example, Grade, last_number


class NumberGrader:
    """Strict: the number after the one `####` is the reference's, and EOS; flexible: the last number is.

    Where the reference's answer has no number, its words take the number's place.
    """

    def grade(self, example: Example, response: str, ended: bool) -> Grade:
        reference = example.response.rsplit("####", 1)[-1].strip()
        expected = last_number(reference)
        parts = response.split("####")
        if expected is None:
            strict, flexible = parts[-1].strip() == reference, reference in response
        else:
            strict, flexible = last_number(parts[-1]) == expected, last_number(response) == expected
        return Grade(strict=ended and len(parts) == 2 and strict, flexible=flexible)
