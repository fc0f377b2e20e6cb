"""What the tests of modules share."""

from typing import Any

import lightning as L

from codd_lightning.backbones import Backbone, new_backbone


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


def backbone_of() -> Backbone:
    """A small one, with a tokenizer of the words w0 to w19."""
    return new_backbone(
        [" ".join(f"w{i}" for i in range(20))],
        tokenizer="words",
        vocab_size=24,
        hidden_size=32,
        num_layers=2,
        num_heads=2,
        intermediate_size=64,
        max_positions=64,
        rope_theta=100.0,
        weight_spread=0.1,
        attention="eager",
        seed=0,
    )
