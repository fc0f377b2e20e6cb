"""Watches one program: starts it confined, bounds its time and memory, keeps its output, sees its end."""

import contextlib
import fcntl
import json
import os
import secrets
import select
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from codd_lightning.sandbox.kernel import DUMPABLE, explain, prctl, refuse_calls
from codd_lightning.sandbox.limits import Limits
from codd_lightning.sandbox.namespaces import NOBODY

POLL_MS = 20
ENVIRONMENT = {
    "PATH": "/usr/local/bin:/usr/bin:/bin",
    "LANG": "C.UTF-8",
    "PYTHONHASHSEED": "0",
    "PYTHONDONTWRITEBYTECODE": "1",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MALLOC_ARENA_MAX": "1",  # each further one takes address space
}


class Supervisor:
    """One run of a program, seen by the process that started it.

    Args:
        request: `code`, `tests`, `runner` (source), `python` (path), `folder` (where it runs).
        limits: what it may use.
        alone: whether the program has its own process and network namespaces, in which this is the first process.
    """

    def __init__(self, request: Mapping[str, Any], limits: Limits, alone: bool) -> None:
        self._request, self._limits, self._alone = request, limits, alone
        self._output = bytearray()
        self._report = b""

    def run(self) -> dict[str, Any]:
        """Status, output and seconds of the program; nothing of it runs any more.

        Raises:
            OSError: it could not be confined, and was not started.
        """
        prctl(DUMPABLE, 0)  # the program may have the same user as this process
        token = secrets.token_hex(16).encode()
        child, output, report = self._start(token)
        started = time.monotonic()
        ended = self._watch(child, output, report, started + self._limits.seconds)
        seconds = time.monotonic() - started
        if not self._alone:
            _end_descendants()
        self._drain(output, report)
        kept = bytes(self._output[: self._limits.output_kib * 1024])
        status = ended if isinstance(ended, str) else self._judge(ended, token)
        return {"status": status, "output": kept.decode(errors="replace"), "seconds": seconds}

    def _judge(self, wait_status: int, token: bytes) -> str:
        if wait_status == 0 and secrets.compare_digest(self._report, token):
            return "passed"
        if self._report == b"memory":
            return "memory"
        return "timeout" if os.WIFSIGNALED(wait_status) and os.WTERMSIG(wait_status) == signal.SIGXCPU else "failed"

    def _start(self, token: bytes) -> tuple[int, int, int]:
        """Starts the program; its process id, and where its output and its report are read."""
        (program_read, program), (token_read, token_write) = os.pipe(), os.pipe()
        (output, output_write), (report, report_write) = os.pipe(), os.pipe()
        fault, fault_write = os.pipe()  # closed by a start that succeeds
        running = 2 if self._alone else _count_tasks(os.getuid() or NOBODY)
        child = os.fork()
        if not child:
            try:
                self._become_program([output_write, program_read, token_read, report_write], fault_write, running)
            except OSError as error:
                os.write(fault_write, explain(error).encode())
            os._exit(1)
        for descriptor in (program_read, token_read, output_write, report_write, fault_write):
            os.close(descriptor)
        parts = {part: self._request[part] for part in ("code", "tests")}
        for descriptor, text in ((token_write, token.decode()), (program, json.dumps(parts))):
            with contextlib.suppress(BrokenPipeError), os.fdopen(descriptor, "w") as file:  # a fault is read below
                file.write(text)
        complaint = os.read(fault, 4096)
        os.close(fault)
        if complaint:
            raise OSError(complaint.decode())
        for descriptor in (output, report):
            os.set_blocking(descriptor, False)
        return child, output, report

    def _become_program(self, given: Sequence[int], fault: int, running: int) -> None:
        """Gives up every right and becomes the interpreter that runs the program; closes `fault` by that."""
        os.setsid()
        output, program, token, report = (fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 10) for descriptor in given)
        nothing = os.open("/dev/null", os.O_RDONLY)
        for place, descriptor in enumerate((nothing, output, output, program, token, report)):
            os.dup2(descriptor, place)
        os.closerange(6, fault)
        os.closerange(fault + 1, 1024)
        if os.getuid() == 0:
            os.setgroups([])
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
        folder = self._request["folder"]
        os.chdir(folder)
        self._limits.bind(running)
        refuse_calls(sockets=self._alone)
        python = self._request["python"]
        environment = {**ENVIRONMENT, "HOME": folder, "TMPDIR": folder}
        os.execve(python, [python, "-I", "-c", self._request["runner"]], environment)

    def _watch(self, child: int, output: int, report: int, deadline: float) -> int | str:
        """The wait status of the program, or the limit that it passed."""
        poll = select.poll()
        poll.register(0, 0)  # the one who asked hangs up
        poll.register(output, select.POLLIN)
        while time.monotonic() < deadline:
            for descriptor, event in poll.poll(POLL_MS):
                if descriptor == 0 and event & select.POLLHUP:
                    return "timeout"
                if descriptor == output and not self._drain(output, report):
                    poll.unregister(output)
                    time.sleep(POLL_MS / 1000)
            ended = _reap(child)
            if ended is not None:
                return ended
            if self._memory() > self._limits.memory_mib * 1024:
                return "memory"
        return "timeout"

    def _drain(self, output: int, report: int) -> bool:
        """Takes what there is to read, and says whether more output may come."""
        with contextlib.suppress(BlockingIOError):
            self._report += os.read(report, 256)
        try:
            some = os.read(output, 2**16)
        except BlockingIOError:
            return True
        room = self._limits.output_kib * 1024 - len(self._output)
        self._output += some[: max(0, room)]
        return bool(some)

    def _memory(self) -> int:
        """Anonymous and shared memory of the program, KiB; pages shared after a fork count in each process."""
        total = 0
        for process in _others() if self._alone else _descendants(os.getpid()):
            with contextlib.suppress(OSError):
                for line in Path(f"/proc/{process}/status").read_text().splitlines():
                    if line.startswith(("RssAnon:", "RssShmem:", "VmSwap:")):
                        total += int(line.split()[1])
        return total


def _reap(child: int) -> int | None:
    """Takes leave of ended processes; the wait status of the program if it is among them."""
    found = None
    with contextlib.suppress(ChildProcessError):
        while True:
            process, status = os.waitpid(-1, os.WNOHANG)
            if not process:
                break
            if process == child:
                found = status
    return found


def _processes() -> Iterator[int]:
    return (int(entry.name) for entry in os.scandir("/proc") if entry.name.isdigit())


def _others() -> Iterator[int]:
    return (process for process in _processes() if process != os.getpid())


def _descendants(ancestor: int) -> list[int]:
    parents = {}
    for process in _processes():
        with contextlib.suppress(OSError):
            parents[process] = int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
    found = {ancestor}
    while more := {process for process, parent in parents.items() if parent in found} - found:
        found |= more
    return sorted(found - {ancestor})


def _end_descendants() -> None:
    """Kills what the program left; orphans have become children of this process."""
    while descendants := _descendants(os.getpid()):
        for process in descendants:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        _reap(-1)


def _count_tasks(user: int) -> int:
    """Processes and threads of a user, which the kernel counts against the limit."""
    count = 0
    for process in _processes():
        with contextlib.suppress(OSError):
            folder = Path(f"/proc/{process}")
            if folder.stat().st_uid == user:
                count += len(list((folder / "task").iterdir()))
    return count
