"""From an error to one line and an exit status. Imports nothing heavy."""

import errno
import os
import sys
import traceback

from codd_lightning.errors import UserError


def report_error(error: Exception) -> int:
    """One line on standard error: 2 for what the user can mend, 1 for a fault of ours."""
    if os.environ.get("CODD_TRACEBACK") == "1":
        traceback.print_exception(error)
    mendable: tuple[type[Exception], ...] = (UserError,)
    if "codd_lightning.circuits.errors" in sys.modules:
        mendable = (UserError, sys.modules["codd_lightning.circuits.errors"].CircuitError)
    message = " ".join(str(error).split())
    if isinstance(error, mendable):
        print(f"codd: {message}", file=sys.stderr)
        return 2
    log = getattr(error, "log_file", None)
    where = f"the traceback is in {log}" if log else "CODD_TRACEBACK=1 shows the traceback"
    print(f"codd: a fault of ours: {type(error).__name__}: {message} ({where})", file=sys.stderr)
    return 1


def disk_is_full(error: BaseException | None) -> bool:
    """Whether an error came of a file system without room; libraries hide that in errors of their own."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        if os.strerror(errno.ENOSPC) in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False
