"""What the tests of modules share."""

from typing import Any

import lightning as L
import whole_data
from transformers import PreTrainedTokenizerFast

from codd_lightning.backbones import Backbone, new_backbone
from codd_lightning.data import TaskDataModule

BLOCK = 4


def trainer_of(**options: Any) -> L.Trainer:
    return L.Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        **options,
    )


def backbone_of(hidden_size: int = 32, num_layers: int = 2) -> Backbone:
    """A small one, with a tokenizer of the words w0 to w19."""
    return new_backbone(
        [" ".join(f"w{i}" for i in range(20))],
        tokenizer="words",
        vocab_size=24,
        hidden_size=hidden_size,
        num_layers=num_layers,
        num_heads=2,
        intermediate_size=2 * hidden_size,
        max_positions=64,
        rope_theta=100.0,
        weight_spread=0.1,
        attention="eager",
        seed=0,
    )


def data_of(task: Any, words: PreTrainedTokenizerFast, batch_size: int, padding: str = "canvas") -> TaskDataModule:
    """Prompts of at most 4 tokens, responses of at most two blocks."""
    return whole_data.data_of(task, words, BLOCK, 2 * BLOCK, batch_size, max_prompt_tokens=4, response_padding=padding)
