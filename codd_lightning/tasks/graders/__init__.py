"""How responses to problems from files are graded: small objects, chosen by name (`data.task.grader`)."""

from collections.abc import Mapping
from typing import Any, ClassVar, Protocol

from codd_lightning.errors import UserError
from codd_lightning.tasks.base import Example, Grade
from codd_lightning.tasks.graders.choice import ChoiceGrader
from codd_lightning.tasks.graders.code import CodeGrader
from codd_lightning.tasks.graders.math import MathGrader
from codd_lightning.tasks.graders.number import NumberGrader


class Grader(Protocol):
    """Two verdicts on one response.

    Attributes:
        reader: the one whose examples it needs; None for any.
    """

    reader: ClassVar[str | None]

    def fault(self, example: Example) -> str | None:
        """Why no response to an example could be graded; None if it can."""
        ...

    def grade(self, example: Example, response: str, ended: bool) -> Grade:
        """Grades a response; `ended` says whether it closed with an end-of-sequence token."""
        ...


GRADERS: dict[str, type[Grader]] = {
    "number": NumberGrader,
    "math": MathGrader,
    "code": CodeGrader,
    "choice": ChoiceGrader,
}


def make_grader(name: str, options: Mapping[str, Any]) -> Grader:
    """A grader by its name.

    Raises:
        UserError: there is none of this name, or it does not take these options.
    """
    if name not in GRADERS:
        raise UserError(f"data.task.grader={name} is not one of {', '.join(GRADERS)}")
    try:
        return GRADERS[name](**options)
    except TypeError as error:
        raise UserError(f"data.task.grader={name} with data.task.grader_options={dict(options)}: {error}") from None


__all__ = ["GRADERS", "ChoiceGrader", "CodeGrader", "Grader", "MathGrader", "NumberGrader", "make_grader"]
