"""The process between the caller and the program: enters the sandbox, watches, and prints one JSON object."""

import json
import os
import signal
import sys
from collections.abc import Callable, Mapping
from typing import Any

from codd_lightning.sandbox.kernel import PDEATHSIG, SUBREAPER, explain, prctl
from codd_lightning.sandbox.limits import Limits
from codd_lightning.sandbox.namespaces import enter, hide_files
from codd_lightning.sandbox.supervisor import Supervisor


def main() -> None:
    """Reads a request from standard input, whose end means that nobody waits any more."""
    request = json.loads(sys.stdin.buffer.readline())
    answer(lambda: LAUNCHES[request["sandbox"]](request, Limits(**request["limits"])))


def answer(launch: Callable[[], dict[str, Any] | None]) -> None:
    """Prints what a launch gives, or why it was not possible."""
    try:
        result = launch()
    except OSError as error:
        result = {"refused": explain(error)}
    if result is not None:
        os.write(1, json.dumps(result).encode())


def in_namespaces(request: Mapping[str, Any], limits: Limits) -> None:
    """The first process in new namespaces watches; with its end the kernel ends all others there."""
    enter()
    first = os.fork()
    if first:
        os.waitpid(first, 0)
        return
    prctl(PDEATHSIG, signal.SIGKILL)

    def launch() -> dict[str, Any]:
        hide_files(request["readable"], limits.files_mib)
        return Supervisor(request, limits, alone=True).run()

    answer(launch)
    os._exit(0)


def in_bubblewrap(request: Mapping[str, Any], limits: Limits) -> dict[str, Any]:
    """Bubblewrap has made this the first process in its namespaces."""
    return Supervisor(request, limits, alone=True).run()


def with_rlimits(request: Mapping[str, Any], limits: Limits) -> dict[str, Any]:
    """No namespaces: orphans of the program come to this process, which ends them."""
    prctl(SUBREAPER, 1)
    return Supervisor(request, limits, alone=False).run()


LAUNCHES: dict[str, Callable[[Mapping[str, Any], Limits], dict[str, Any] | None]] = {
    "namespaces": in_namespaces,
    "bubblewrap": in_bubblewrap,
    "rlimits": with_rlimits,
}
