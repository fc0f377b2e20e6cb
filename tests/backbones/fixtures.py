"""The checkpoints under tests/fixtures, and what the original code answers."""

import functools
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from codd_lightning.backbones import Backbone, load_backbone, new_backbone

FIXTURES = Path(__file__).parents[1] / "fixtures"
NAMES = ("llada-tiny", "dream-tiny", "a2d-qwen3-tiny")
TEXTS = ["Ann has 3 apples and buys 14 more. She has 17 apples.", "Bob has 20 pears; he eats 5 of them."]


@functools.cache
def loaded(name: str, attention: str = "sdpa") -> Backbone:
    return load_backbone(FIXTURES / name, attention=attention).requires_grad_(False)


@functools.cache
def reference(name: str) -> dict[str, Tensor]:
    with np.load(FIXTURES / name / "reference_logits.npz") as arrays:
        return {key: torch.from_numpy(arrays[key]) for key in arrays.files}


def tiny(**changes: object) -> Backbone:
    """An untrained backbone over the words of `TEXTS`."""
    arguments = {
        "tokenizer": "words",
        "vocab_size": 100,
        "hidden_size": 16,
        "num_layers": 2,
        "num_heads": 2,
        "intermediate_size": 32,
        "max_positions": 64,
        "rope_theta": 1000.0,
        "weight_spread": 0.2,
        "attention": "sdpa",
        "seed": 0,
    }
    return new_backbone(TEXTS, **{**arguments, **changes}).eval().requires_grad_(False)


def copy_of(name: str, folder: Path) -> Path:
    return Path(shutil.copytree(FIXTURES / name, folder / name))


def edit_json(path: Path, change: Callable[[dict], object]) -> None:
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))
