"""From an error to one line and an exit status. Imports nothing heavy."""

import errno
import os
import sys
import traceback
from dataclasses import dataclass

from codd_lightning.cli.slurm import STATUS, Preempted
from codd_lightning.errors import UserError


@dataclass(frozen=True)
class Failure:
    """How a command, or one rank of a run, ended.

    Attributes:
        status: 1 for a fault of ours, 2 for what the user can mend, 75 for a job that is queued again, 130 for Ctrl-C.
        line: what is said of it.
        weight: of several ranks' failures the heaviest is told.
    """

    status: int
    line: str
    weight: int


def failure_of(error: BaseException) -> Failure:
    """Status and line of an error."""
    message = " ".join(str(error).split())
    if isinstance(error, KeyboardInterrupt):
        return Failure(130, f"interrupted; {message}" if message else "interrupted", weight=0)
    if isinstance(error, Preempted):
        return Failure(STATUS, message, weight=4)
    mendable: tuple[type[Exception], ...] = (UserError,)
    if "codd_lightning.circuits.errors" in sys.modules:
        mendable = (UserError, sys.modules["codd_lightning.circuits.errors"].CircuitError)
    if isinstance(error, mendable):
        return Failure(2, message, weight=2)
    log = getattr(error, "log_file", None)
    where = f"the traceback is in {log}" if log else "CODD_TRACEBACK=1 shows the traceback"
    return Failure(1, f"a fault of ours: {type(error).__name__}: {message} ({where})", weight=1)


def report_error(error: BaseException) -> int:
    """One line on standard error; returns the exit status."""
    if os.environ.get("CODD_TRACEBACK") == "1" and not isinstance(error, KeyboardInterrupt):
        traceback.print_exception(error)
    failure = getattr(error, "failure", None) or failure_of(error)
    print(f"codd: {failure.line}", file=sys.stderr)
    return int(failure.status)


def disk_is_full(error: BaseException | None) -> bool:
    """Whether an error came of a file system without room; libraries hide that in errors of their own."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        if os.strerror(errno.ENOSPC) in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False
