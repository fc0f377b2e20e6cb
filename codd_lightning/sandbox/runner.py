"""Runs a program and its tests, and reports that their end was reached. Its source is given to `python -c`.

Descriptors: 3 gives the program as JSON, 4 the token that proves its end, 5 takes the report.
"""

import json
import os
import sys
import traceback
import types
from typing import Any

PROGRAM, TOKEN, REPORT = 3, 4, 5


def main() -> None:
    """Ends this process with status 0 after the report, else with 1."""
    # What the program may replace is taken before it runs.
    run, read, write, leave, own_id, process = exec, os.read, os.write, os._exit, os.getpid, os.getpid()
    explain, streams = traceback.print_exc, (sys.stdout, sys.stderr)
    with os.fdopen(PROGRAM) as file:
        program = json.load(file)
    # A program has its main part; a module whose tests follow has none.
    module = types.ModuleType("solution" if program["tests"] else "__main__")
    sys.modules[module.__name__] = module
    sys.argv = [""]
    names: dict[str, Any] = module.__dict__
    try:
        for part in [compile(program[part], f"<{part}>", "exec") for part in ("code", "tests")]:
            run(part, names)
        for stream in streams:
            stream.flush()
    except MemoryError:
        write(REPORT, b"memory")
        leave(1)
    except BaseException:
        try:
            explain(file=streams[1])
            for stream in streams:
                stream.flush()
        finally:
            leave(1)  # without waiting for threads
    if own_id() == process:
        write(REPORT, read(TOKEN, 64))
    leave(0)


if __name__ == "__main__":
    main()
