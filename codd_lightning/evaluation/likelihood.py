"""Factorized and coupled likelihood of the true tokens, by mask ratio."""

from typing import Any

import torch
from torch import Tensor

from codd_lightning.backbones import as_backbone
from codd_lightning.circuits import Circuit
from codd_lightning.data import TaskDataModule
from codd_lightning.errors import UserError
from codd_lightning.evaluation.intervals import bootstrap_ratio
from codd_lightning.evaluation.rows import Row, row
from codd_lightning.metrics import MASK_RATIO_BUCKETS, bucket_of
from codd_lightning.modules import Noise, conditional_log_likelihood, scored_blocks


@torch.no_grad()
def evaluate_likelihood(
    backbone: Any,
    data: TaskDataModule,
    noise: Noise,
    *,
    circuit: Circuit | None = None,
    examples: int,
    batch_size: int,
    split: str,
    evidence_top_k: int | None = None,
) -> list[Row]:
    """NLL per masked token up to the first EOS, in nats, for each bucket of mask ratios.

    Each example is masked once, by its own noise; a block's mask ratio is the masked share of its
    positions, the EOS padding included. Intervals resample blocks.

    Args:
        backbone: gives the factorized prediction.
        data: where examples come from.
        noise: how they are masked.
        circuit: adds the rows of the coupled prediction and the gain.
        examples, batch_size: how many, and how many at once.
        split: of the data.
        evidence_top_k: tokens per position that evidence keeps; None for all.

    Raises:
        UserError: there are fewer examples than asked for.
    """
    dataset = data.dataset(split)
    if examples > len(dataset):
        raise UserError(
            f"evaluation.likelihood_examples={examples} is more than the {len(dataset)} examples of the {split} split"
        )
    backbone = as_backbone(backbone)
    parts: list[Tensor] = []
    for start in range(0, examples, batch_size):
        batch = data.collate([dataset[i] for i in range(start, min(start + batch_size, examples))])
        noised = noise(batch, backbone.mask_token_id, 0, f"{split} likelihood")
        blocks = scored_blocks(backbone, batch, noised, noise.block_length, evidence_top_k)
        counted = blocks.counted
        factorized = blocks.evidence.log_weight(blocks.tokens, counted)
        coupled = factorized if circuit is None else conditional_log_likelihood(circuit, blocks, counted)
        columns = (factorized, coupled, counted.sum(-1), bucket_of(blocks.masked.float().mean(-1)))
        parts.append(torch.stack([column.double() for column in columns], dim=-1))
    measured = torch.cat(parts)  # (blocks, 4)
    return [
        row_ for i in range(len(MASK_RATIO_BUCKETS)) for row_ in _bucket_rows(measured, i, split, circuit is not None)
    ]


def _bucket_rows(measured: Tensor, bucket: int, split: str, coupled: bool) -> list[Row]:
    here = measured[(measured[:, 3] == bucket) & (measured[:, 2] > 0)]
    if not len(here):
        return []
    counts = here[:, 2]
    tokens = int(counts.sum())
    totals = {"nll_factorized": -here[:, 0]}
    if coupled:
        totals |= {"nll_coupled": -here[:, 1], "cll_gain": here[:, 1] - here[:, 0]}
    rows = []
    for name, total in totals.items():
        low, high = bootstrap_ratio(total, counts)
        value = float(total.sum() / tokens)
        rows.append(
            row(name, value, low, high, tokens, "nats/token", split, mask_ratio=list(MASK_RATIO_BUCKETS[bucket]))
        )
    return rows
