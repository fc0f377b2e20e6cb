"""FSDP2 through Lightning: torch's `fully_shard` on each layer of the backbone, and on the rest."""

from functools import partial
from typing import Any

import lightning as L
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

from codd_lightning.strategies.pieces import fill, local_rows


class FullyShardedStrategy(ModelParallelStrategy):
    """Shards a module by itself, so that modules need not know; checkpoints hold whole tensors.

    Args:
        backend: of the process group.
    """

    def __init__(self, backend: str) -> None:
        super().__init__(tensor_parallel_size=1, save_distributed_checkpoint=False, process_group_backend=backend)

    def setup_environment(self) -> None:
        self._data_parallel_size = self.num_processes * self.num_nodes
        super().setup_environment()

    def setup(self, trainer: L.Trainer) -> None:
        module: Any = self.lightning_module
        module.configure_model = self._shard  # Lightning insists on it, and calls it no more by now
        self._shard()
        fill(module, partial(local_rows, device=self.root_device))
        super().setup(trainer)

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """What is trained, whole on the first rank; of frozen weights a tied head alone, by its second name."""
        assert self.model is not None
        options = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=True)
        return get_model_state_dict(self.model, options=options)

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        assert self.lightning_module is not None
        self.lightning_module.strict_loading = False  # frozen weights are in no checkpoint
        return super().load_checkpoint(checkpoint_path, weights_only)

    def _shard(self) -> None:
        module = self.lightning_module
        assert module is not None
        mesh = self.device_mesh["data_parallel"]
        backbone = getattr(module, "backbone", None)
        for layer in [] if backbone is None else layers_of(backbone):  # an adapter's have steps that do without them
            fully_shard(layer, mesh=mesh)
        fully_shard(module, mesh=mesh)
        for name in ("training_step", "validation_step", "hidden_text"):  # what is called instead of forward
            if hasattr(module, name):
                register_fsdp_forward_method(module, name)


def layers_of(module: nn.Module) -> list[nn.Module]:
    """The layers of a transformer: what its longest list of modules holds."""
    lists = [list(part) for part in module.modules() if isinstance(part, nn.ModuleList)]
    return max(lists, key=len, default=[])
