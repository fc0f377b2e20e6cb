"""Checkpoint formats that are loaded without remote code, one file each."""

from codd_lightning.backbones.families.a2d import A2D_LLAMA, A2D_QWEN2, A2D_QWEN3
from codd_lightning.backbones.families.dream import DREAM
from codd_lightning.backbones.families.family import Family
from codd_lightning.backbones.families.llada import LLADA
from codd_lightning.backbones.families.llama import LLAMA

FAMILIES: dict[str, Family] = {f.model_type: f for f in (LLADA, DREAM, A2D_QWEN3, A2D_QWEN2, A2D_LLAMA, LLAMA)}

__all__ = ["FAMILIES", "Family"]
