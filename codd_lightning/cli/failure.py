"""From an error to one line and an exit status. Imports nothing heavy."""

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
