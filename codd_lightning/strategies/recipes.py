"""How the processes of a run share its work: recipes, of which a configuration chooses one."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

from lightning.pytorch.strategies import DDPStrategy, Strategy

BACKENDS = {"cpu": "gloo", "gpu": "nccl"}


class StrategyRecipe(ABC):
    """Makes Lightning's strategy of a run.

    Attributes:
        shards: whether no rank holds all the weights in training, so that one rank alone cannot use the module.
    """

    @property
    @abstractmethod
    def shards(self) -> bool: ...

    @abstractmethod
    def __call__(self, accelerator: str) -> Strategy:
        """The strategy for "cpu" or "gpu"."""


@dataclass(frozen=True)
class DDP(StrategyRecipe):
    """Every rank holds everything; gradients are averaged (Li et al., 2020). For circuits, and for EM."""

    shards = False

    def __call__(self, accelerator: str) -> Strategy:
        return DDPStrategy(process_group_backend=BACKENDS[accelerator])


@dataclass(frozen=True)
class FSDP2(StrategyRecipe):
    """Weights, gradients and optimizer are spread over the ranks, by torch itself (`fully_shard`)."""

    shards = True

    def __call__(self, accelerator: str) -> Strategy:
        from codd_lightning.strategies.fully_sharded import FullyShardedStrategy

        return FullyShardedStrategy(BACKENDS[accelerator])


@dataclass(frozen=True)
class DeepSpeedZero(StrategyRecipe):
    """ZeRO (Rajbhandari et al., 2020), by DeepSpeed.

    Attributes:
        stage: spread over the ranks are in 1 the optimizer, in 2 gradients too, in 3 weights too, frozen ones as well.
        offload_optimizer: optimizer states lie and are stepped in the host's memory.
        offload_parameters: so do weights; stage 3 only.
        bucket_elements: numbers that are sent together.
        persistent_elements: stage 3 leaves smaller tensors whole on every rank.
    """

    stage: int = 2
    offload_optimizer: bool = False
    offload_parameters: bool = False
    bucket_elements: int = 200_000_000
    persistent_elements: int = 100_000

    @property
    def shards(self) -> bool:
        return self.stage == 3

    def __call__(self, accelerator: str) -> Strategy:
        from codd_lightning.strategies.zero import ZeroStrategy

        return ZeroStrategy(self.config(accelerator), BACKENDS[accelerator])

    def config(self, accelerator: str) -> dict[str, Any]:
        """DeepSpeed's own configuration; accumulation, clipping and precision are added from the trainer's."""
        on_gpu = accelerator == "gpu"
        offload = {"device": "cpu", "pin_memory": on_gpu}
        zero: dict[str, Any] = {
            "stage": self.stage,
            "contiguous_gradients": on_gpu,  # both need streams, which a CPU has not
            "overlap_comm": on_gpu,
            "reduce_bucket_size": self.bucket_elements,
            "allgather_bucket_size": self.bucket_elements,
        }
        if self.stage == 3:
            zero["stage3_param_persistence_threshold"] = self.persistent_elements
        if self.offload_optimizer:
            zero["offload_optimizer"] = offload
        if self.offload_parameters:
            zero["offload_param"] = offload
        return {
            "train_micro_batch_size_per_gpu": 1,  # of DeepSpeed's own throughput log, which is off
            "zero_allow_untested_optimizer": True,
            "zero_force_ds_cpu_optimizer": False,  # torch's AdamW needs no compiler
            "zero_optimization": zero,
        }
