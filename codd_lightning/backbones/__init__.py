"""Masked-diffusion transformers behind one interface."""

from codd_lightning.backbones.backbone import (
    AnyBackbone,
    Backbone,
    BackboneLike,
    Prediction,
    as_backbone,
    device_of,
)
from codd_lightning.backbones.exact import ExactBackbone, exact_backbone
from codd_lightning.backbones.identity import files_digest
from codd_lightning.backbones.key_values import KeyValues
from codd_lightning.backbones.loading import load_backbone, multiplies_bfloat16
from codd_lightning.backbones.lora import add_lora, merge_lora
from codd_lightning.backbones.scratch import new_backbone, save_backbone
from codd_lightning.backbones.stored import StoredTensor
from codd_lightning.backbones.text import encode_prompt

__all__ = [
    "AnyBackbone",
    "Backbone",
    "BackboneLike",
    "ExactBackbone",
    "KeyValues",
    "Prediction",
    "StoredTensor",
    "add_lora",
    "as_backbone",
    "device_of",
    "encode_prompt",
    "exact_backbone",
    "files_digest",
    "load_backbone",
    "merge_lora",
    "multiplies_bfloat16",
    "new_backbone",
    "save_backbone",
]
