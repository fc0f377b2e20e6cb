"""Gives weights to a backbone that was made without, so that no rank ever holds all of them."""

import math
from collections.abc import Callable

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from codd_lightning.backbones import Backbone, StoredTensor

Piece = Callable[[StoredTensor, nn.Parameter], nn.Parameter]


def fill(module: nn.Module, piece: Piece) -> None:
    """Reads the backbones of a module that are without weights, one tensor at a time.

    Args:
        module: that holds them.
        piece: from where a tensor lies, and the parameter on torch's meta device that stands for it, to what this rank
            keeps of it.
    """
    for backbone in [part for part in module.modules() if isinstance(part, Backbone)]:
        if backbone.stored is None:
            continue
        for name, parameter in list(backbone.model.named_parameters()):
            filled = piece(backbone.stored[name], parameter)
            for owner in backbone.model.modules():
                for own, held in list(owner.named_parameters(recurse=False, remove_duplicate=False)):
                    if held is parameter:  # in several places, if it is tied
                        setattr(owner, own, filled)
        backbone.stored = None


def local_rows(stored: StoredTensor, parameter: nn.Parameter, device: torch.device) -> nn.Parameter:
    """The rows of a tensor that `fully_shard` gives this rank; the others are not read."""
    assert isinstance(parameter, DTensor), "fully_shard comes first"
    mesh, rows = parameter.device_mesh, parameter.to_local().shape[0]
    first = mesh.get_local_rank() * math.ceil(parameter.shape[0] / mesh.size())  # as torch.chunk cuts
    filled = DTensor.from_local(
        stored.read(parameter.dtype, device, slice(first, first + rows)),
        mesh,
        parameter.placements,
        run_check=False,
        shape=parameter.shape,
        stride=parameter.stride(),
    )
    return nn.Parameter(filled, parameter.requires_grad)
