"""DeepSpeed through Lightning, on GPUs and on CPUs."""

import os
import sys
from typing import Any

import lightning as L
import torch
from lightning.fabric.utilities.seed import reset_seed
from lightning.pytorch.plugins import DeepSpeedPrecision
from lightning.pytorch.strategies import DeepSpeedStrategy
from torch import nn

from codd_lightning.backbones import StoredTensor
from codd_lightning.strategies.pieces import fill
from codd_lightning.strategies.zero_checkpoints import no_pickles


class KeptPrecision(DeepSpeedPrecision):
    """Leaves modules and batches as they are: a frozen backbone may be of less precision, and tokens have none."""

    def convert_module(self, module: nn.Module) -> nn.Module:
        return module

    def convert_input(self, data: Any) -> Any:
        return data


class Partition:
    """Splits a tensor among the ranks as soon as it is read, as `deepspeed.zero.Init` splits the ones of new modules.

    Args:
        config: DeepSpeed's.
        device: of this rank.
    """

    def __init__(self, config: dict[str, Any], device: torch.device) -> None:
        self._config, self._device = config, device
        self._first: Any = None

    def __call__(self, stored: StoredTensor, parameter: nn.Parameter) -> nn.Parameter:
        filled = nn.Parameter(stored.read(parameter.dtype, self._device), parameter.requires_grad)
        if self._first is None:
            import deepspeed

            deepspeed.zero.Init(module=nn.ParameterList([filled]), config_dict_or_path=self._config)
            self._first = filled
        else:
            self._first.convert_to_zero_parameters(param_list=[filled])
        return filled


class ZeroStrategy(DeepSpeedStrategy):
    """Lightning's strategy, which also runs on CPUs; frozen weights stay out of its checkpoints.

    Args:
        config: DeepSpeed's.
        backend: of the process group, "gloo" on CPUs.
    """

    def __init__(self, config: dict[str, Any], backend: str) -> None:
        self._on_cpu = backend == "gloo"
        if self._on_cpu:
            use_cpu()
        super().__init__(config=config, process_group_backend=backend, exclude_frozen_parameters=True)

    def setup(self, trainer: L.Trainer) -> None:
        precision: Any = self.precision_plugin.precision  # one that DeepSpeed knows: Lightning has looked
        self.precision_plugin = KeptPrecision(precision)
        if self.zero_stage_3:
            assert self.lightning_module is not None
            assert self.config is not None
            fill(self.lightning_module, Partition(self.config, self.root_device))
        super().setup(trainer)

    def setup_environment(self) -> None:
        if not self._on_cpu:
            super().setup_environment()
            return
        assert self.accelerator is not None
        self.accelerator.setup_device(self.root_device)
        self.setup_distributed()

    def setup_distributed(self) -> None:
        if not self._on_cpu:
            super().setup_distributed()
            return
        reset_seed()
        self.set_world_ranks()
        self._init_deepspeed_distributed()

    @property
    def root_device(self) -> torch.device:
        # DeepSpeed asks for the number of a device, which torch's CPU has not
        return torch.device("cpu", self.local_rank) if self._on_cpu else super().root_device

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        assert self.lightning_module is not None
        self.lightning_module.strict_loading = False  # frozen weights are in no checkpoint
        with no_pickles():
            return super().load_checkpoint(checkpoint_path, weights_only)


def use_cpu() -> None:
    """Makes DeepSpeed run on CPUs, before it is imported anywhere else."""
    os.environ["DS_ACCELERATOR"] = "cpu"
    import deepspeed.comm  # noqa: F401  # fills sys.modules

    # Where a machine has a compiler, this op is compiled for minutes; torch's gloo does the same.
    sys.modules["deepspeed.comm.torch"].build_shm_op = lambda: None  # type: ignore[attr-defined]
