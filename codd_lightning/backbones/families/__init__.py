"""Checkpoint formats that are loaded without remote code, one file each."""

from codd_lightning.backbones.families.a2d import A2D_LLAMA, A2D_QWEN2, A2D_QWEN3
from codd_lightning.backbones.families.block_causal import FAST_DLLM_V2, SDAR
from codd_lightning.backbones.families.dream import DREAM
from codd_lightning.backbones.families.family import Family
from codd_lightning.backbones.families.llada import LLADA
from codd_lightning.backbones.families.llama import LLAMA
from codd_lightning.backbones.families.modernbert import MODERNBERT

ALL = (LLADA, DREAM, A2D_QWEN3, A2D_QWEN2, A2D_LLAMA, SDAR, FAST_DLLM_V2, MODERNBERT, LLAMA)
FAMILIES: dict[str, Family] = {family.model_type: family for family in ALL}

__all__ = ["FAMILIES", "Family"]
