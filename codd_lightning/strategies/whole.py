"""Weights that a strategy has split among the ranks, read and changed as if they were whole."""

import math

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, distribute_tensor


@torch.no_grad()
def whole_state(trained: nn.Module, prefix: str) -> dict[str, Tensor]:
    """Copies of a part's weights, whole on every rank; all of them call this together.

    Args:
        trained: what the strategy was given.
        prefix: of the names of the part's parameters; it is left out.
    """
    return {name.removeprefix(prefix): _whole_copy(weight) for name, weight in _weights(trained, prefix)}


@torch.no_grad()
def set_whole_state(trained: nn.Module, prefix: str, state: dict[str, Tensor]) -> None:
    """Gives a part weights that are whole, and the same, on every rank; all of them call this together.

    Args:
        trained: what the strategy was given.
        prefix: of the names of the part's parameters.
        state: as `whole_state` gives it.
    """
    for name, weight in _weights(trained, prefix):
        _set(weight, state[name.removeprefix(prefix)].to(weight.device))


def _weights(trained: nn.Module, prefix: str) -> list[tuple[str, nn.Parameter]]:
    if isinstance(trained, FSDPModule):
        trained.reshard()  # what was made whole for a forward pass is no place to write to
    return [(name, weight) for name, weight in trained.named_parameters() if name.startswith(prefix)]


def _whole_copy(weight: nn.Parameter) -> Tensor:
    if isinstance(weight, DTensor):
        return weight.full_tensor()
    if _is_split_by_zero(weight):
        import deepspeed

        with deepspeed.zero.GatheredParameters([weight]):
            return weight.detach().clone()
    return weight.detach().clone()


def _set(weight: nn.Parameter, value: Tensor) -> None:
    if isinstance(weight, DTensor):
        weight.copy_(distribute_tensor(value, weight.device_mesh, weight.placements))
    elif _is_split_by_zero(weight):
        import deepspeed
        from deepspeed.utils import safe_set_local_fp32_param

        with deepspeed.zero.GatheredParameters([weight], modifier_rank=0):
            weight.copy_(value)
        ranks = dist.get_world_size()
        share = math.ceil(value.numel() / ranks)  # the last one's is filled up
        padded = nn.functional.pad(value.flatten(), (0, share * ranks - value.numel()))
        safe_set_local_fp32_param(weight, padded.split(share)[dist.get_rank()])
    else:
        weight.copy_(value)
        if hasattr(weight, "_hp_mapping"):  # ZeRO 1 and 2 take their steps on a copy
            from deepspeed.utils import safe_set_full_fp32_param

            safe_set_full_fp32_param(weight, value)


def _is_split_by_zero(weight: nn.Parameter) -> bool:
    return hasattr(weight, "ds_id")  # of stage 3
