"""DeepSpeed's checkpoints, which are folders of shards, read without running their pickles."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

TAG = "checkpoint"  # of what Lightning writes


@contextmanager
def no_pickles() -> Iterator[None]:
    """DeepSpeed unpickles its checkpoints; in here torch reads no more than tensors, plain values and these classes."""
    from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler, LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    name = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"  # reaches calls that say weights_only=False
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        with torch.serialization.safe_globals([LossScaler, DynamicLossScaler, ZeroStageEnum, fragment_address]):
            yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def gathered_weights(checkpoint: Path) -> dict[str, Tensor]:
    """The trained weights of a sharded checkpoint of any stage, whole and in float32."""
    from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

    with no_pickles():
        weights = get_fp32_state_dict_from_zero_checkpoint(str(checkpoint), tag=TAG, exclude_frozen_parameters=True)
    return {name: value.clone() for name, value in weights.items()}
