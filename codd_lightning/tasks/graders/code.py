"""Programs: right is what passes its tests, in the sandbox."""

import re
from typing import ClassVar

from codd_lightning.errors import UserError
from codd_lightning.sandbox import SANDBOXES, Limits, run_python
from codd_lightning.tasks.base import Example, Grade

_BLOCK = re.compile(r"```[^\n`]*\n(.*?)(?:```|\Z)", re.DOTALL)


class CodeGrader:
    """Strict: the response is one fenced block or plain code, it ended, and passes; flexible: its first block passes.

    `Example.problem["tests"]` is what runs after the code.

    Args:
        sandbox, seconds, memory_mib: of each run, see `run_python`.

    Raises:
        UserError: there is no such sandbox, or a limit is out of range.
    """

    reader: ClassVar[str | None] = "program"

    def __init__(
        self, sandbox: str = "auto", seconds: float = Limits.seconds, memory_mib: int = Limits.memory_mib
    ) -> None:
        if sandbox not in SANDBOXES:
            raise UserError(f"data.task.grader_options.sandbox={sandbox} is not one of {', '.join(SANDBOXES)}")
        Limits(seconds=seconds, memory_mib=memory_mib).require_sound("data.task.grader_options.")
        self._sandbox, self._seconds, self._memory_mib = sandbox, seconds, memory_mib

    def fault(self, example: Example) -> str | None:
        return None

    def grade(self, example: Example, response: str, ended: bool) -> Grade:
        code, alone = extract_code(response)
        run = run_python(
            code,
            example.problem["tests"],
            seconds=self._seconds,
            memory_mib=self._memory_mib,
            sandbox=self._sandbox,
        )
        passed = run.status == "passed"
        return Grade(strict=ended and alone and passed, flexible=passed)


def extract_code(response: str) -> tuple[str, bool]:
    """The first fenced block of a response, or all of it; and whether nothing else stands there."""
    block = _BLOCK.search(response)
    if block is None:
        return response, "```" not in response
    closed = block[0].endswith("```")
    return block[1], closed and block[0].strip() == response.strip()
