"""Low-rank updates of a backbone's matrices, by peft (LoRA; Hu et al., 2022)."""

import torch

from codd_lightning.backbones.backbone import Backbone
from codd_lightning.errors import UserError


def add_lora(backbone: Backbone, rank: int, seed: int) -> None:
    """Freezes a backbone, and puts trainable updates beside the matrices of its layers; in place.

    At first they change nothing. Their scale is that of `lora_alpha = rank`.

    Args:
        backbone: whose output embeddings stay as they are.
        rank: of each update.
        seed: of the half that does not start at zero.

    Raises:
        UserError: peft is not installed.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError:
        raise UserError("low-rank updates need peft: pip install 'codd-lightning[lora]'") from None
    backbone.requires_grad_(False)
    options = LoraConfig(r=rank, lora_alpha=rank, target_modules="all-linear")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(options, backbone.model)


def merge_lora(backbone: Backbone) -> None:
    """Adds the updates to the matrices that they stand beside, which then are as they would be without; in place."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for name, module in list(backbone.model.named_modules()):
        if isinstance(module, BaseTunerLayer):
            module.merge()
            owner, _, own = name.rpartition(".")
            setattr(backbone.model.get_submodule(owner), own, module.get_base_layer())
