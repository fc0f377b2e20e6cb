"""Whether mathematical answers are equal, asked of a process that may be ended when it takes too long.

math_verify bounds its time by signals, which only the main thread can take, and what it calls may still run for hours
or take all memory. So its own limits are off, and it runs beside this process, within ours.
"""

import atexit
import functools
import json
import os
import resource
import selectors
import subprocess
import sys
import threading
from collections.abc import Sequence

SECONDS = 10.0
START_SECONDS = 120.0  # the imports, on a slow disk
MEMORY_BYTES = 4 * 2**30


def equal_answers(reference: str, candidates: Sequence[str]) -> list[bool]:
    """Whether the answer in each text equals the reference's; what takes longer than ten seconds in all does not.

    Args:
        reference: a text with the right answer, as LaTeX or plain.
        candidates: texts with answers.
    """
    return _process_of(os.getpid()).ask(reference, list(candidates))


class EqualityProcess:
    """A process that compares answers, started when first asked and anew after it had to be ended."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()

    def ask(self, reference: str, candidates: list[str]) -> list[bool]:
        """See `equal_answers`."""
        with self._lock:
            if self._process is None:
                self._start()
            question = json.dumps([reference, candidates]).encode() + b"\n"
            try:
                answer = self._exchange(question, SECONDS)
            except BrokenPipeError:  # it ended by itself: out of memory
                answer = b""
            if not answer:
                self._end()
                return [False] * len(candidates)
            verdicts: list[bool] = json.loads(answer)
            return verdicts

    def close(self) -> None:
        """Ends the process."""
        with self._lock:
            self._end()

    def _start(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", f"from {__name__} import main; main()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        if not self._exchange(b"", START_SECONDS):
            self._end()
            raise RuntimeError("math_verify could not be started")

    def _exchange(self, question: bytes, seconds: float) -> bytes:
        """The line that answers a question; empty where none comes in time."""
        assert self._process is not None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(question)
        self._process.stdin.flush()
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            return self._process.stdout.readline() if selector.select(seconds) else b""

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.communicate()


@functools.cache
def _process_of(process_id: int) -> EqualityProcess:
    """The one of this process: a fork must not read its parent's answers."""
    process = EqualityProcess()
    atexit.register(process.close)
    return process


def main() -> None:
    """Answers questions, one line each, until there are no more."""
    import logging

    from math_verify import parse, verify

    logging.disable()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    print("ready", flush=True)
    for line in sys.stdin:
        reference, candidates = json.loads(line)
        gold = parse(reference, parsing_timeout=None)
        verdicts = [verify(gold, parse(text, parsing_timeout=None), timeout_seconds=None) for text in candidates]
        print(json.dumps(verdicts), flush=True)
