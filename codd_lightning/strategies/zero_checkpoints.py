"""DeepSpeed's checkpoints, which are folders of shards, read without running their pickles."""

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

TAG = "checkpoint"  # of what Lightning writes


@contextmanager
def no_pickles() -> Iterator[None]:
    """DeepSpeed unpickles its checkpoints; in here torch reads no more than tensors, plain values and these classes."""
    if "deepspeed" not in sys.modules:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # it looks for others aloud, and reading needs none
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


def read_states(checkpoint: Path) -> dict[str, Any]:
    """What a sharded checkpoint holds besides weights and optimizer, from its first rank's file."""
    with no_pickles():
        states: dict[str, Any] = torch.load(
            min((checkpoint / TAG).glob("*model_states.pt")), map_location="cpu", mmap=True
        )
    return {name: value for name, value in states.items() if name != "module"}


def gathered_weights(checkpoint: Path) -> dict[str, Tensor]:
    """The trained weights of a sharded checkpoint of any stage, whole and in float32."""
    quiet = io.StringIO()  # it prints and draws bars
    with no_pickles(), redirect_stdout(quiet), redirect_stderr(quiet):
        from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

        weights = get_fp32_state_dict_from_zero_checkpoint(str(checkpoint), tag=TAG, exclude_frozen_parameters=True)
    return {name: value.clone() for name, value in weights.items()}
