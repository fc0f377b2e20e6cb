"""From a noised batch to the blocks that a circuit covers, with their evidence."""

import torch
from torch import Tensor

from codd_lightning.backbones import AnyBackbone
from codd_lightning.circuits import Circuit, Evidence, Reads
from codd_lightning.data import Batch, Blocks
from codd_lightning.decoding import context_of
from codd_lightning.diffusion import Noised, NoiseLevel


def scored_blocks(
    backbone: AnyBackbone,
    batch: Batch,
    noised: Noised,
    block_length: int,
    top_k: int | None,
    reads: Reads = Reads.NOTHING,
) -> Blocks:
    """Runs the backbone on a noised batch and takes its word as evidence.

    Args:
        backbone: answers for the response columns only; evidence has gradients where its parameters ask for them.
        batch: clean tokens.
        noised: the same, masked.
        block_length: L; responses are whole blocks.
        top_k: tokens per position that evidence keeps, the true one always among them; None for all.
        reads: what the evidence carries of the backbone's hidden states as well.

    Raises:
        UserError: hidden states are asked for, and the backbone gives none.
    """
    columns = torch.arange(batch.prompt_length, batch.input_ids.shape[1], device=batch.input_ids.device)
    prediction = backbone.predict(
        noised.canvas, columns, attention_mask=batch.attention_mask, response_start=batch.prompt_length
    )
    logits = prediction.logits

    def blocked(values: Tensor) -> Tensor:
        return response_blocks(batch, values, block_length)

    eos = torch.isin(batch.input_ids, torch.tensor(backbone.eos_token_ids, device=columns.device)) & batch.response_mask
    until_eos = eos.cumsum(-1) - eos.long() == 0
    chosen = blocked(noised.scored).any(-1)
    tokens = blocked(batch.input_ids)[chosen]
    logits = logits.reshape(-1, block_length, logits.shape[-1])[chosen]
    blocks_per_row = len(columns) // block_length
    row = torch.arange(len(batch), device=tokens.device).repeat_interleave(blocks_per_row)[chosen]
    hidden = prediction.hidden
    if hidden is not None:
        hidden = hidden.reshape(-1, block_length, hidden.shape[-1])[chosen]
    starts = columns[::block_length].repeat(len(batch))[chosen]
    evidence = Evidence.from_logits(
        logits,
        blocked(noised.canvas)[chosen],
        backbone.mask_token_id,
        top_k=top_k,
        keep=tokens if top_k is not None else None,
        context=context_of(prediction, reads, hidden, row, starts, batch.attention_mask),
    )
    counted = blocked(noised.masked & until_eos)[chosen]
    masked = blocked(noised.masked)[chosen]
    return Blocks(tokens, masked, counted, evidence, row, noised.level.rows(row), len(batch))


def clean_blocks(batch: Batch, block_length: int, vocab_size: int) -> Blocks:
    """All blocks of a batch's responses, every token known: what a circuit learns from without a backbone."""
    chosen = response_blocks(batch, batch.response_mask, block_length).any(-1)
    tokens = response_blocks(batch, batch.input_ids, block_length)[chosen]
    everything = torch.ones_like(tokens, dtype=torch.bool)
    nothing = Evidence.nothing_known(len(tokens), block_length, vocab_size, device=tokens.device)
    evidence = nothing.clamp(tokens, everything)
    row = torch.arange(len(batch), device=tokens.device).repeat_interleave(len(chosen) // len(batch))[chosen]
    size = batch.response_mask.sum(-1)
    noise = NoiseLevel(torch.ones(len(batch), device=size.device), size, size).rows(row)
    return Blocks(tokens, everything, everything, evidence, row, noise, len(batch))


def response_blocks(batch: Batch, values: Tensor, block_length: int) -> Tensor:
    """`(B, T)` values of a batch as those of its responses' blocks, `(B · blocks, L)`."""
    return values[:, batch.prompt_length :].reshape(-1, block_length)


def conditional_log_likelihood(circuit: Circuit, blocks: Blocks, where: Tensor | None = None) -> Tensor:
    """`log p̂(x0 | xt)` of each block's masked tokens (paper Eq. 7), `(M,)` nats.

    Args:
        circuit: `p_ω`.
        blocks: tokens and evidence.
        where: `(M, L)` bool: of these tokens alone, the other masked ones summed out; all if None.
    """
    return circuit.log_conditional(blocks.tokens, blocks.evidence, where)
