"""The processes that share an evaluation: started by torchrun, by SLURM, or by ourselves."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch.distributed as dist
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment

from codd_lightning.errors import UserError

# A rank may wait as long as the slowest one works.
PATIENCE = timedelta(days=7)
Made = TypeVar("Made")

# Where a process finds its number, its number on this machine, and how many there are: torchrun's names, and SLURM's.
RANKS = (("RANK", "LOCAL_RANK", "WORLD_SIZE"), ("SLURM_PROCID", "SLURM_LOCALID", "SLURM_STEP_NUM_TASKS"))


@dataclass(frozen=True)
class Processes:
    """This process and how many there are."""

    rank: int = 0
    local_rank: int = 0
    size: int = 1

    @classmethod
    def of_environment(cls) -> "Processes":
        """What torchrun or srun says of this process; alone where neither started it.

        Raises:
            UserError: what the environment says is no number, or not one of the processes.
        """
        for names in RANKS:
            if names[0] not in os.environ or names[2] not in os.environ:
                continue
            values = [os.environ.get(name, "0") for name in names]
            said = ", ".join(f"{name}={value}" for name, value in zip(names, values, strict=True))
            if not all(value.isdecimal() for value in values) or int(values[0]) >= int(values[2]):
                raise UserError(
                    f"{said} in the environment name no process: unset them, or start with torchrun or srun"
                )
            return cls(*map(int, values))
        return cls()

    def connect(self) -> None:
        """Makes the group in which `first` and `wait` speak; under SLURM it meets on the first node of the job."""
        if self.size == 1:
            return
        if "MASTER_ADDR" not in os.environ:
            slurm = SLURMEnvironment(auto_requeue=False)
            os.environ["MASTER_ADDR"] = slurm.resolve_root_node_address(os.environ["SLURM_NODELIST"])
            os.environ["MASTER_PORT"] = str(slurm.main_port)
        dist.init_process_group("gloo", rank=self.rank, world_size=self.size, timeout=PATIENCE)

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
