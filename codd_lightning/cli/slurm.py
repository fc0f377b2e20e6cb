"""A process in a job of SLURM: it is asked to leave by a signal, and queues its job again. Imports nothing heavy."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import FrameType

# The early warning of --signal, submitit's, and what comes with preemption, scancel and the end of the time limit.
SIGNALS = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM)
STATUS = 75  # "try again later" of sysexits.h
INTERACTIVE = ("bash", "interactive")  # names of jobs that somebody sits at
HEAD_START_SECONDS = 20.0


class Preempted(BaseException):
    """The job is to leave now; what must be kept has been. No handler of other errors has any use for it."""


def in_job() -> bool:
    """Whether this process belongs to a batch job, which can be queued again."""
    return "SLURM_JOB_ID" in os.environ and os.environ.get("SLURM_JOB_NAME") not in INTERACTIVE


def restarted() -> bool:
    """Whether this job has been queued again."""
    return in_job() and int(os.environ.get("SLURM_RESTART_COUNT", 0)) > 0


def job_id() -> str:
    """Of this job; of an array's task alone, where it is one."""
    if "SLURM_ARRAY_JOB_ID" in os.environ:
        return f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    return os.environ["SLURM_JOB_ID"]


class Notice:
    """What SLURM has asked of this process.

    A signal ends whatever runs, as Ctrl-C does, because whatever runs can be killed at any moment and goes on later; it
    waits only where all ranks have something to save together.

    Attributes:
        given: whether a signal has come.
    """

    def __init__(self) -> None:
        self.given = False
        self._deferred = False

    def listen(self) -> None:
        """Takes SLURM's signals from whoever has them."""
        for number in SIGNALS:
            signal.signal(number, self._receive)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)

    def defer(self) -> None:
        """From now on somebody asks `given` and leaves in good order."""
        self._deferred = True

    def obey(self) -> None:
        """From now on a signal ends what runs; one that has come does.

        Raises:
            Preempted: one has come.
        """
        self._deferred = False
        if self.given:
            raise Preempted("goes on from what is saved")

    def _receive(self, number: int, frame: FrameType | None) -> None:
        first, self.given = not self.given, True
        if first and not self._deferred:
            raise Preempted("goes on from what is saved")


notice = Notice()


class Progress:
    """What this start of a job has saved, so that a job which gets no further does not queue itself for ever."""

    def __init__(self) -> None:
        self._watched: list[tuple[Path, str]] = []
        self._before = self._saved()

    def watch(self, folder: Path, *patterns: str) -> None:
        """Looks, now and when the job leaves, at the files that its next start would go on from."""
        self._watched = [(folder, pattern) for pattern in patterns]
        self._before = self._saved()

    @property
    def stuck(self) -> bool:
        """Whether a job that was queued again has saved nothing since: its next start would only do the same.

        The first start is always given a second one: it may have been asked to leave early.
        """
        return restarted() and self._saved() == self._before

    def _saved(self) -> list[tuple[str, int, int]]:
        found = []
        for file in sorted(file for folder, pattern in self._watched for file in folder.glob(pattern)):
            with suppress(FileNotFoundError):  # another rank has just replaced it
                stat = file.stat()
                found.append((str(file), stat.st_size, stat.st_mtime_ns))
        return found


progress = Progress()


def leave(reason: Preempted) -> int:
    """Says why this process ends, and has SLURM queue its job again; returns the exit status.

    SLURM then ends what is left of the job. A job that SLURM is ending already (cancelled, or preempted and queued
    again by SLURM itself) is left alone, and one that got no further since it was queued again ends.
    """
    job = job_id()
    if int(os.environ.get("SLURM_PROCID", 0)):
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        time.sleep(HEAD_START_SECONDS)  # the first rank does it, unless it waits in vain for this one
    else:
        print(f"codd: SLURM's signal came: {reason}", file=sys.stderr, flush=True)
    try:
        state = _ask("squeue", "-h", "-j", job, "-o", "%T")
        if state == "RUNNING" and progress.stuck:
            print(
                f"codd: job {job} has saved nothing since it was queued again, and is not queued once more: "
                "give it more time, or let it save more often; start it again to continue",
                file=sys.stderr,
            )
            return 2
        if state == "RUNNING":
            print(f"codd: queueing job {job} again", file=sys.stderr, flush=True)
            _ask("scontrol", "requeue", job)
        else:
            print(f"codd: job {job} is {state.lower() or 'gone'}, and not queued again by us", file=sys.stderr)
    except (OSError, subprocess.SubprocessError) as error:
        said = str(getattr(error, "stderr", None) or error).strip()
        print(f"codd: job {job} could not be queued again ({said}): start it again to continue", file=sys.stderr)
    return STATUS


def _ask(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    return done.stdout.strip()
