"""Factorized and coupled likelihood of the true tokens, by mask ratio."""

from typing import Any

import torch
from torch import Tensor

from codd_lightning.backbones import AnyBackbone, as_backbone, device_of
from codd_lightning.circuits import Circuit, Reads
from codd_lightning.data import Batch, TaskDataModule
from codd_lightning.diffusion import Noised
from codd_lightning.errors import UserError
from codd_lightning.evaluation.intervals import bootstrap_ratio
from codd_lightning.evaluation.rows import Row, row
from codd_lightning.metrics import MASK_RATIO_BUCKETS, bucket_of
from codd_lightning.modules import Noise, conditional_log_likelihood, response_blocks, scored_blocks


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
    sequential: bool = False,
) -> list[Row]:
    """NLL per masked token up to the first EOS, in nats, for each bucket of mask ratios.

    Each example is masked once, by its own noise; a block's mask ratio is the masked share of its
    positions, the EOS padding included. Intervals resample blocks. The misspecification gap (paper Figure 1) is what
    the factorized prediction loses against the sequential one, on the same blocks.

    Args:
        backbone: gives the factorized prediction.
        data: where examples come from.
        noise: how they are masked.
        circuit: adds the rows of the coupled prediction and the gain.
        examples, batch_size: how many, and how many at once.
        split: of the data.
        evidence_top_k: tokens per position that evidence keeps; None for all.
        sequential: adds the rows of the sequential prediction and the gap: as many passes as tokens are masked.

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
        rows = [dataset[i] for i in range(start, min(start + batch_size, examples))]
        batch = data.collate(rows).to(device_of(backbone))
        noised = noise(batch, backbone.mask_token_id, 0, f"{split} likelihood")
        blocks = scored_blocks(
            backbone,
            batch,
            noised,
            noise.block_length,
            evidence_top_k,
            Reads.NOTHING if circuit is None else circuit.reads,
        )
        counted = blocks.counted
        factorized = blocks.evidence.log_weight(blocks.tokens, counted)
        coupled = factorized if circuit is None else conditional_log_likelihood(circuit, blocks, counted)
        columns = [factorized, coupled, counted.sum(-1), bucket_of(blocks.masked.float().mean(-1))]
        if sequential:
            by_token = sequential_log_likelihood(backbone, batch, noised)
            columns.append((scored_part(by_token, batch, noised, noise.block_length) * counted).sum(-1))
        parts.append(torch.stack([column.double() for column in columns], dim=-1))
    measured = torch.cat(parts)  # (blocks, 4 or 5)
    return [
        row_ for i in range(len(MASK_RATIO_BUCKETS)) for row_ in _bucket_rows(measured, i, split, circuit is not None)
    ]


@torch.no_grad()
def sequential_log_likelihood(backbone: AnyBackbone, batch: Batch, noised: Noised) -> Tensor:
    """`log p_θ` of each scored token, the true ones revealed one at a time, each counted just before it is revealed.

    In each row the next is where the backbone is surest (its largest probability), the leftmost of equals: the order
    of low-confidence remasking, with the true tokens in place of its own.

    Args:
        backbone: asked once for each token of the row that has most of them.
        batch: the true tokens.
        noised: what is masked and scored; masked tokens that are not scored stay masked.

    Returns:
        `(B, T)` nats, 0 where no token is scored.
    """
    canvas, left = noised.canvas.clone(), noised.scored.clone()
    columns = torch.arange(batch.prompt_length, canvas.shape[1], device=canvas.device)
    found = torch.zeros(canvas.shape, device=canvas.device)
    rows = left.any(-1).nonzero()[:, 0]
    while len(rows):
        logits = backbone.predict(
            canvas[rows],
            columns,
            attention_mask=batch.attention_mask[rows],
            response_start=batch.prompt_length,
        ).logits.float()
        if 0 <= backbone.mask_token_id < logits.shape[-1]:  # no token of a text, as in evidence
            mask = torch.tensor([backbone.mask_token_id], device=logits.device)
            logits = logits.index_fill(-1, mask, -torch.inf)
        log_probs = logits.log_softmax(-1)  # (R, P, V)
        surest = log_probs.amax(-1).masked_fill(~left[rows][:, columns], -torch.inf).argmax(-1)  # (R,)
        place = columns[surest]
        token = batch.input_ids[rows, place]
        found[rows, place] = log_probs[torch.arange(len(rows), device=rows.device), surest, token]
        canvas[rows, place] = token
        left[rows, place] = False
        rows = left.any(-1).nonzero()[:, 0]
    return found


def scored_part(values: Tensor, batch: Batch, noised: Noised, block_length: int) -> Tensor:
    """`(B, T)` values of a batch as the `(M, L)` of its scored blocks, those of `scored_blocks`."""
    return response_blocks(batch, values, block_length)[response_blocks(batch, noised.scored, block_length).any(-1)]


def _bucket_rows(measured: Tensor, bucket: int, split: str, coupled: bool) -> list[Row]:
    here = measured[(measured[:, 3] == bucket) & (measured[:, 2] > 0)]
    if not len(here):
        return []
    counts = here[:, 2]
    tokens = int(counts.sum())
    totals = {"nll_factorized": -here[:, 0]}
    if coupled:
        totals |= {"nll_coupled": -here[:, 1], "cll_gain": here[:, 1] - here[:, 0]}
    if here.shape[1] > 4:
        totals |= {"nll_sequential": -here[:, 4], "misspecification_gap": here[:, 4] - here[:, 0]}
    rows = []
    for name, total in totals.items():
        low, high = bootstrap_ratio(total, counts)
        value = float(total.sum() / tokens)
        rows.append(
            row(name, value, low, high, tokens, "nats/token", split, mask_ratio=list(MASK_RATIO_BUCKETS[bucket]))
        )
    return rows
