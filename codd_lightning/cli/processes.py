"""The processes that share an evaluation: started by torchrun, by SLURM, or by ourselves."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch.distributed as dist
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment

from codd_lightning.errors import UserError

# A rank may wait as long as the slowest one works.
PATIENCE = timedelta(days=7)
Made = TypeVar("Made")


@dataclass(frozen=True)
class Processes:
    """This process and how many there are."""

    rank: int = 0
    local_rank: int = 0
    size: int = 1

    @classmethod
    def of_environment(cls) -> "Processes":
        """What torchrun or srun says of this process, connected to the others; alone where neither started it."""
        if TorchElasticEnvironment.detect():
            found = cls(int(os.environ["RANK"]), int(os.environ["LOCAL_RANK"]), int(os.environ["WORLD_SIZE"]))
        elif SLURMEnvironment.detect():
            slurm = SLURMEnvironment(auto_requeue=False)
            found = cls(slurm.global_rank(), slurm.local_rank(), slurm.world_size())
            os.environ["MASTER_ADDR"] = slurm.resolve_root_node_address(os.environ["SLURM_NODELIST"])
            os.environ["MASTER_PORT"] = str(slurm.main_port)
        else:
            return cls()
        if found.size > 1:
            dist.init_process_group("gloo", rank=found.rank, world_size=found.size, timeout=PATIENCE)
        return found

    def first(self, prepare: Callable[[], Made]) -> Made:
        """What the first process prepares, on all; what it refuses, all refuse.

        Raises:
            UserError: the first process refused.
        """
        if self.size == 1:
            return prepare()
        said: list[object] = [None, None]
        failure: Exception | None = None
        if self.rank == 0:
            try:
                said = [prepare(), None]
            except Exception as error:
                said, failure = [None, str(error)], error
        dist.broadcast_object_list(said, src=0)
        if failure is not None:
            raise failure
        if said[1] is not None:
            raise UserError(str(said[1]))
        return said[0]  # type: ignore[return-value]  # what prepare made, through a pickle of our own

    def wait(self) -> None:
        """Until all are here."""
        if self.size > 1:
            dist.barrier()


def launch(count: int, arguments: Sequence[str]) -> int:
    """Runs this command as several processes of this machine; returns the first exit status that is not 0.

    One that fails ends the others.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = []
    for rank in range(count):
        environment = {
            **os.environ,
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "WORLD_SIZE": str(count),
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "TORCHELASTIC_RUN_ID": str(os.getpid()),
        }
        environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // count)))
        command = [sys.executable, "-m", "codd_lightning.cli.main", *arguments]
        started.append(subprocess.Popen(command, env=environment))
    try:
        while True:
            statuses = [process.poll() for process in started]
            failed = [status for status in statuses if status]
            if failed or None not in statuses:
                return (failed[0] if failed[0] > 0 else 1) if failed else 0
            time.sleep(0.1)
    except KeyboardInterrupt:
        return 130  # each of them has had it too
    finally:
        for process in started:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for process in started:
            process.wait()
