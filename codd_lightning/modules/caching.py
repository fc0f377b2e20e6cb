"""Runs a frozen backbone once over the batches of training, and stores its evidence."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from codd_lightning.backbones import as_backbone, device_of
from codd_lightning.circuits import Reads
from codd_lightning.data import CacheFolder, EpochOrder, RowFormat, TaskDataModule
from codd_lightning.modules.blocks import scored_blocks
from codd_lightning.modules.noise import Noise

# What batches of a split are masked for, as the module that trains and validates says it.
PURPOSES = {"train": "training noise", "validation": "validation noise"}


def write_evidence(
    folder: CacheFolder,
    backbone: Any,
    data: TaskDataModule,
    noise: Noise,
    *,
    top_k: int | None,
    dtype: str,
    hidden: str | None = None,
    before: bool = False,
    rank: int = 0,
    world_size: int = 1,
    precision: Callable[[], AbstractContextManager[Any]] = nullcontext,
    progress: Callable[[int], object] = lambda examples: None,
) -> None:
    """Writes the shards of one process that are not there yet.

    Shards are dealt out by number, and each depends on nothing but the settings: any number of processes, killed and
    started again, write the same files.

    Args:
        folder: started.
        backbone: gives the evidence; its device computes.
        data, noise: of training: batches are composed and masked exactly as there.
        top_k: tokens per position that evidence keeps, the true one always among them; None for all.
        dtype: of log-probabilities, "float32", "float16" or "bfloat16".
        hidden: dtype of hidden states, "float16" or "bfloat16"; None stores none.
        before: whether those before each block are stored as well.
        rank, world_size: of this process.
        precision: context that the backbone runs in.
        progress: told of examples as they are done.

    Raises:
        UserError: the backbone gives no hidden states, or a file cannot be written.
    """
    reads = Reads.NOTHING
    if hidden is not None:
        reads = Reads.EVERYTHING_BEFORE if before else Reads.BLOCK
    backbone = as_backbone(backbone)
    device = device_of(backbone)
    for shard in folder.shards[rank::world_size]:
        if folder.holds(shard):
            continue
        dataset = data.dataset(shard.split)
        order = EpochOrder(len(dataset), data.seed, shuffle=shard.split == "train")
        order.set_epoch(shard.epoch)
        chosen = list(order)[shard.start : shard.stop]
        with folder.write(shard) as append:
            for first in range(0, len(chosen), data.batch_size):
                batch = data.collate([dataset[i] for i in chosen[first : first + data.batch_size]])
                positions = range(shard.start + first, shard.start + first + len(batch))
                there = batch.to(device)
                noised = noise(there, backbone.mask_token_id, shard.epoch, PURPOSES[shard.split])
                with torch.no_grad(), precision():
                    blocks = scored_blocks(backbone, there, noised, noise.block_length, top_k, reads)
                blocks = blocks.to("cpu")
                rows = RowFormat.of(blocks, backbone.mask_token_id, dtype, hidden)
                append(rows.rows(blocks, shard.epoch, positions, batch.index))
                progress(len(batch))
