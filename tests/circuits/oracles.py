"""The reference files under tests/oracle."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from codd_lightning.circuits import HMM, Evidence

ORACLE = Path(__file__).parents[1] / "oracle"


def oracle(name: str) -> dict[str, Tensor]:
    with np.load(ORACLE / f"{name}.npz") as arrays:
        return {key: torch.from_numpy(arrays[key]) for key in arrays.files}


def circuit_of(parameters: dict[str, Tensor], block_length: int) -> HMM:
    return HMM.from_probabilities(
        parameters["initial"], parameters["transition"], parameters["emission"], block_length=block_length
    )


def evidence_of(values: dict[str, Tensor], observed: Tensor | None = None) -> Evidence:
    """Evidence of a reference file: its tokens known at `observed` (nowhere if None), its weights elsewhere."""
    vocab_size = values["logw"].shape[-1]
    known = torch.zeros_like(values["mask"]) if observed is None else observed
    tokens = values["x"].masked_fill(~known, vocab_size)
    return Evidence.from_logits(values["logw"].double(), tokens, mask_token_id=vocab_size)
