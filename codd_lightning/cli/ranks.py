"""Starts a run: here, or as one process a rank, watched until all have ended or one of them fails.

The ranks begin anew, with nothing of this process but the configuration. Whatever ends one of them ends all.
"""

import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from codd_lightning.cli.failure import Failure, failure_of
from codd_lightning.cli.run_folder import RunFolder
from codd_lightning.cli.slurm import SIGNALS, STATUS, Preempted, in_job, notice, progress
from codd_lightning.cli.world import accelerator_of, launched_outside, require_lasting_folder, require_world, world_size
from codd_lightning.errors import UserError

Work = Callable[[DictConfig, int], None]

GRACE_SECONDS = 20.0  # for ranks to end by themselves after Ctrl-C


class RankError(Exception):
    """What ended a run in one of its ranks."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.line)
        self.failure = failure


def start(config: DictConfig, overrides: Sequence[str] = ()) -> Path:
    """One run, on as many ranks as it asks for; returns its folder.

    Raises:
        UserError: the ranks could not work.
        RankError: one of them failed.
        Preempted: SLURM wants them to leave.
    """
    require_world(config)
    require_lasting_folder(config)
    if in_job():
        progress.watch(Path(config.output_dir), "checkpoints/*.ckpt", "samples/*")
    if world_size(config) > 1 and launched_outside() and config.output_dir is None:
        raise UserError("output_dir is needed where srun or torchrun starts the ranks: they cannot agree on a new one")
    if world_size(config) == 1 or launched_outside():
        from codd_lightning.cli.run import run

        return run(config, overrides=overrides)
    folder = RunFolder(config)
    config = config.copy()
    config.output_dir = str(folder.path)  # the ranks must not each look at the clock
    try:
        run_on_ranks(partial(_train, overrides=list(overrides)), config, world_size(config))
    except KeyboardInterrupt:
        raise folder.interrupted() from None
    return folder.path


def run_on_ranks(work: Work, config: DictConfig, count: int) -> None:
    """Does the same work in several processes of this machine, which know their rank by torchrun's variables.

    Args:
        work: a function of a module, given the configuration and the rank.
        config: of the run.
        count: of ranks.

    Raises:
        RankError: one of them failed.
        Preempted: SLURM wants them to leave.
    """
    cores = os.cpu_count() or 1
    if count > cores and accelerator_of(config) == "cpu":
        warning = f"trainer.devices={count} is more than this machine's cores ({cores}): processes wait for each other"
        print(f"codd: warning: {warning}", file=sys.stderr)
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    ranks = Ranks(work, config, count)
    try:
        ranks.wait()
    except KeyboardInterrupt:
        ranks.interrupt()
        raise
    finally:
        ranks.kill()
        if threading.current_thread() is threading.main_thread():
            for number, handler in handlers.items():
                signal.signal(number, handler)


def _train(config: DictConfig, rank: int, overrides: Sequence[str]) -> None:
    from codd_lightning.cli.run import run

    run(config, rank, overrides)


class Ranks:
    """The processes of one run on this machine."""

    def __init__(self, work: Work, config: DictConfig, count: int) -> None:
        context = multiprocessing.get_context("spawn")
        port = _free_port()
        self._processes: list[Any] = []
        self._reports: list[Connection] = []
        with _forwarding_later(self):
            for rank in range(count):
                report, theirs = context.Pipe(duplex=False)
                process = context.Process(
                    target=_rank, args=(work, config, rank, count, port, theirs), name=f"rank {rank}"
                )
                process.start()
                theirs.close()  # so that the end of the rank is the end of the pipe
                self._processes.append(process)
                self._reports.append(report)

    def wait(self) -> None:
        """Until every rank has ended well.

        Raises:
            RankError: one has not.
            Preempted: SLURM wants them to leave.
        """
        running = set(self._reports)
        while running:
            failures = []
            for report in wait(list(running)):
                running.discard(report)
                failures.append(self._outcome(report))
            if any(failures):
                time.sleep(0.5)  # others fail of the first one's end: a rank that was killed is the cause
                failures += [self._outcome(report) for report in wait(list(running), timeout=0)]
                heaviest = max((f for f in failures if f), key=lambda f: f.weight)
                raise Preempted(heaviest.line) if heaviest.status == STATUS else RankError(heaviest)

    def interrupt(self) -> None:
        """Passes Ctrl-C on, and gives the ranks time to end."""
        self.send(signal.SIGINT)
        deadline = time.monotonic() + GRACE_SECONDS
        for process in self._processes:
            process.join(max(0.0, deadline - time.monotonic()))

    def send(self, number: int) -> None:
        """Sends a signal to every rank that is alive."""
        for process in self._processes:
            if process.is_alive():
                os.kill(process.pid, number)

    def kill(self) -> None:
        """Ends what is left; files are whole at any moment."""
        for process in self._processes:
            process.kill()
            process.join()

    def _outcome(self, report: Any) -> Failure | None:
        """What a rank reported; a rank that ends without a word was killed."""
        process = self._processes[self._reports.index(report)]
        try:
            return report.recv()
        except EOFError:
            process.join(5.0)
            how = (
                signal.Signals(-process.exitcode).name if (process.exitcode or 0) < 0 else f"status {process.exitcode}"
            )
            line = f"{process.name} was ended by {how}; the others were stopped. Start the run again to continue it"
            return Failure(1, line, weight=3)


def _rank(work: Work, config: DictConfig, rank: int, count: int, port: int, report: Connection) -> None:
    """The life of one rank."""
    os.setpgid(0, 0)  # Ctrl-C comes by way of the first process
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if in_job():
        notice.listen()  # to what came while this process began, too
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        NODE_RANK="0",
        WORLD_SIZE=str(count),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
    )
    if rank > 0:
        sys.stdout = open(os.devnull, "w")  # noqa: PTH123, SIM115  # one of them speaks
    from tqdm import tqdm

    tqdm.set_lock(threading.RLock())  # its own lock is for several processes, and outlives this one with a warning
    try:
        work(config, rank)
        report.send(None)
    except BaseException as error:
        report.send(failure_of(error))
        sys.stdout.flush()
        os._exit(1)  # threads of torch would wait for the other ranks


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None, "ranks are started by another process"
    wait([parent.sentinel])
    os._exit(1)


@contextmanager
def _forwarding_later(ranks: Ranks) -> Iterator[None]:
    """Signals that come before all ranks are there wait for them; later ones are passed on at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    for number in SIGNALS:
        signal.signal(number, lambda number, _: ranks.send(number))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
