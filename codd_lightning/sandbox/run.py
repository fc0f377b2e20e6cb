"""The caller's side of the sandbox."""

import contextlib
import dataclasses
import json
import os
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from codd_lightning.errors import UserError
from codd_lightning.sandbox.kernel import MACHINES
from codd_lightning.sandbox.limits import Limits
from codd_lightning.sandbox.namespaces import NOBODY, SETTINGS, SYSTEM

SANDBOXES = ("auto", "bubblewrap", "namespaces", "rlimits")
# What setting up and taking down may take beside the program's own seconds.
GRACE_SECONDS = 20.0
MENDS = {
    "bubblewrap": "mend bubblewrap, or try sandbox=namespaces",
    "namespaces": "install bubblewrap or allow user namespaces, or accept limits alone with sandbox=rlimits",
    "rlimits": "let this user (for root: nobody) run this interpreter",
}
_PACKAGE = Path(__file__).parents[1]
_LAUNCH = "import sys; sys.path.insert(0, sys.argv[1]); from codd_lightning.sandbox.launch import main; main()"


@dataclass(frozen=True)
class Result:
    """How a program ended.

    Attributes:
        status: "passed" (its end and that of its tests was reached), "failed" (an exception, a signal, or an end before
            the end), "timeout" (its seconds of wall clock or CPU are over), "memory".
        output: what it wrote to standard output and standard error, cut at the limit.
        seconds: how long it ran.
    """

    status: str
    output: str
    seconds: float


def run_python(
    code: str,
    tests: str = "",
    *,
    seconds: float = Limits.seconds,
    memory_mib: int = Limits.memory_mib,
    files_mib: int = Limits.files_mib,
    output_kib: int = Limits.output_kib,
    sandbox: str = "auto",
) -> Result:
    """Runs a Python program that nobody vouches for, in a sandbox of its own.

    It has no network, no files but the system's and this interpreter's (read-only), an empty temporary directory, no
    privileges, and the limits given. docs/data.md says what that holds against.

    Args:
        code: the program; with `tests`, a module, whose `__name__` is not `"__main__"`.
        tests: further statements, run after it in the same module.
        seconds, memory_mib, files_mib, output_kib: see `Limits`.
        sandbox: "bubblewrap", "namespaces" (Linux 5.14 or later), "rlimits" (limits alone: the program reads what the
            user, or for root `nobody`, may read), or "auto": the first that is there, but never "rlimits".

    Raises:
        UserError: a limit is out of range, or this system has no such sandbox; the program was not run.
    """
    limits = Limits(seconds=seconds, memory_mib=memory_mib, files_mib=files_mib, output_kib=output_kib)
    limits.require_sound()
    chosen = _choose(sandbox)
    request: dict[str, Any] = {
        "sandbox": chosen,
        "code": code,
        "tests": tests,
        "limits": dataclasses.asdict(limits),
        "runner": (_PACKAGE / "sandbox" / "runner.py").read_text(encoding="utf-8"),
        "python": sys.executable,
        "readable": _interpreter_folders(),
        "folder": "/tmp",
    }
    if chosen != "rlimits":
        answer = _ask(request, limits)
    else:
        with tempfile.TemporaryDirectory(prefix="codd-", ignore_cleanup_errors=True) as folder:
            if os.geteuid() == 0:
                os.chown(folder, NOBODY, NOBODY)
            answer = _ask({**request, "folder": folder}, limits)
    if "refused" in answer:
        raise UserError(f"sandbox={sandbox}: code cannot be run here: {answer['refused']}; {MENDS[chosen]}")
    return Result(**answer)


def _choose(sandbox: str) -> str:
    if sandbox not in SANDBOXES:
        raise UserError(f"sandbox={sandbox} is not one of {', '.join(SANDBOXES)}")
    if sys.platform != "linux" or os.uname().machine not in MACHINES:
        raise UserError(f"code is only run on Linux on {' and '.join(MACHINES)}: nothing else can confine it")
    there = shutil.which("bwrap") is not None
    if sandbox == "auto":
        # Bubblewrap keeps root's user, whom limits on processes do not bind.
        return "bubblewrap" if there and os.geteuid() else "namespaces"
    if sandbox == "bubblewrap" and not there:
        raise UserError("sandbox=bubblewrap: there is no bwrap on PATH; install bubblewrap")
    if sandbox == "bubblewrap" and not os.geteuid():
        raise UserError("sandbox=bubblewrap does not bind root's processes: use sandbox=namespaces, or another user")
    return sandbox


def _interpreter_folders() -> list[str]:
    """Where this interpreter, its libraries and its packages are."""
    named = (sys.prefix, sys.base_prefix)
    folders = list(dict.fromkeys(path for name in named for path in (name, str(Path(name).resolve()))))
    for folder in folders:
        if folder not in SYSTEM and Path.home().resolve().is_relative_to(folder):
            raise UserError(
                f"code is not run by the interpreter in {folder}, because that folder holds a home directory, which "
                "the code could read: use a virtual environment in a folder of its own"
            )
    return folders


def _bubblewrap(readable: Sequence[str], files_mib: int) -> list[str]:
    command = ["bwrap", "--unshare-all", "--die-with-parent", "--new-session", "--as-pid-1", "--cap-drop", "ALL"]
    command += ["--uid", str(NOBODY), "--gid", str(NOBODY), "--proc", "/proc", "--dev", "/dev"]
    for path in (*SYSTEM, *SETTINGS):
        if Path(path).is_symlink() and Path(path).parent == Path("/"):
            command += ["--symlink", str(Path(path).readlink()), path]
        else:
            command += ["--ro-bind-try", path, path]
    for path in readable:
        command += ["--ro-bind", path, path]
    command += ["--ro-bind", str(_PACKAGE), "/codd/codd_lightning"]
    for path in ("/tmp", "/dev/shm"):
        command += ["--size", str(files_mib * 2**20), "--tmpfs", path]
    return [*command, "--remount-ro", "/dev", "--remount-ro", "/", "--chdir", "/tmp"]


def _ask(request: dict[str, Any], limits: Limits) -> dict[str, Any]:
    """Starts the supervisor, gives it the request, and waits for its answer."""
    bubblewrap = request["sandbox"] == "bubblewrap"
    wrapper = _bubblewrap(request["readable"], limits.files_mib) if bubblewrap else []
    package = "/codd" if bubblewrap else str(_PACKAGE.parent)
    process = subprocess.Popen(
        [*wrapper, sys.executable, "-I", "-S", "-c", _LAUNCH, package],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd="/",
        env={"LANG": "C.UTF-8", "PATH": os.environ.get("PATH", os.defpath), "PYTHONDONTWRITEBYTECODE": "1"},
        start_new_session=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(json.dumps(request).encode() + b"\n")
            process.stdin.flush()
        said = _read_until(process.stdout.fileno(), time.monotonic() + limits.seconds + GRACE_SECONDS)
    finally:
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
    try:
        answer: dict[str, Any] = json.loads(said)
    except ValueError:
        answer = {"refused": (said.decode(errors="replace").strip().splitlines() or ["it gave no answer"])[-1]}
    return answer


def _read_until(descriptor: int, deadline: float) -> bytes:
    """What is written there until it is closed or the time is over."""
    said = b""
    with selectors.DefaultSelector() as selector:
        selector.register(descriptor, selectors.EVENT_READ)
        while selector.select(max(0.0, deadline - time.monotonic())):
            some = os.read(descriptor, 2**16)
            if not some:
                break
            said += some
    return said
