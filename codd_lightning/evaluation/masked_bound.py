"""A lower bound on the log-likelihood of a continuation under a masked-diffusion model, with or without a circuit.

Revealing a continuation's L tokens one at a time, in an order drawn evenly from all, has the log-likelihood
`E_l E_S[ L/l · Σ_{i∈S} log p̂(x_i | x without S) ]`, with l even on 1..L and S even on the sets of l masked tokens, as
LLaDA estimates it (Nie et al., 2025). It bounds `log p(x)` from below, and equals it where the conditionals are those
of one joint distribution.

With a circuit each masked token is scored by its exact posterior marginal `p̂(x_i | xt)`, the others summed out. The
joint `log p̂` of all masked tokens, weighted alike, would be no bound: it counts once more in every step the dependence
that the circuit knows of.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from codd_lightning.backbones import BackboneLike, as_backbone
from codd_lightning.circuits import Circuit, Evidence, Reads
from codd_lightning.decoding import context_of


@dataclass(frozen=True)
class Masks:
    """Which tokens of a continuation are masked, draw by draw, and what each draw counts for.

    Attributes:
        masked: `(M, L)` bool, at least one in each row.
        weights: `(M,)` double: the bound is the sum of `weights · Σ_masked log p̂`.
    """

    masked: Tensor
    weights: Tensor


def masks_of(length: int, draws: int, generator: torch.Generator) -> Masks:
    """All sets of masked tokens where they are no more than the draws, so that the bound is exact; else drawn ones.

    The sizes of drawn ones are spread evenly from a random start: unbiased, and less noisy than independent sizes.

    Args:
        length: L, at least 1.
        draws: at most how many sets.
        generator: source of the draws.
    """
    if 2**length - 1 <= draws:
        numbers = torch.arange(1, 2**length)
        masked = (numbers[:, None] >> torch.arange(length)) & 1 == 1
        weights = [1.0 / (size * math.comb(length, size)) for size in masked.sum(-1).tolist()]
        return Masks(masked, torch.tensor(weights, dtype=torch.double))
    start = int(torch.randint(length, (), generator=generator))
    sizes = (start + torch.arange(draws) * length // draws) % length + 1  # (M,)
    places = torch.rand(draws, length, generator=generator).argsort(-1).argsort(-1)
    return Masks(places < sizes[:, None], length / sizes.double() / draws)


@torch.no_grad()
def masked_log_likelihood(
    backbone: BackboneLike,
    canvas: Tensor,
    tokens: Tensor,
    attention_mask: Tensor,
    circuit: Circuit | None = None,
    block_length: int = 32,
    top_k: int | None = None,
) -> Tensor:
    """`Σ_i log p̂(x_i | xt)` over the masked tokens at a canvas's end.

    Args:
        backbone: `p_θ`.
        canvas: `(B, T)` long, masked in its last L columns alone.
        tokens: `(B, L)` long, the true tokens of those columns.
        attention_mask: `(B, T)`, 0 where padded.
        circuit: acts on blocks counted from the first of the L columns; None scores by the backbone.
        block_length: of those blocks; the last may be shorter.
        top_k: tokens per position that evidence keeps, the true one always among them; None for all.

    Returns:
        `(B,)` double, nats. Where the circuit rules out all that is likely in a block, the backbone scores it alone, as
        in decoding.
    """
    backbone = as_backbone(backbone)
    length = tokens.shape[1]
    columns = torch.arange(canvas.shape[1] - length, canvas.shape[1], device=canvas.device)
    start = int(columns[0])
    prediction = backbone.predict(canvas, columns, attention_mask=attention_mask, response_start=start)
    if circuit is None:
        block_length = length

    def blocked(values: Tensor) -> Tensor:
        missing = -length % block_length
        padded = torch.cat([values, values.new_zeros(len(values), missing, *values.shape[2:])], dim=1)
        return padded.reshape(-1, block_length, *values.shape[2:])

    masked = blocked(canvas[:, columns] == backbone.mask_token_id)
    asked = masked.any(-1)
    true = blocked(tokens)[asked]
    absent = ~blocked(torch.ones_like(tokens, dtype=torch.bool))[asked]
    blocks_per_row = len(asked) // len(canvas)
    row = torch.arange(len(canvas), device=canvas.device).repeat_interleave(blocks_per_row)[asked]
    starts = columns[::block_length].repeat(len(canvas))[asked]
    hidden = None if prediction.hidden is None else blocked(prediction.hidden)[asked]
    reads = Reads.NOTHING if circuit is None else circuit.reads
    evidence = Evidence.from_logits(
        blocked(prediction.logits)[asked],
        blocked(canvas[:, columns])[asked],
        backbone.mask_token_id,
        top_k=top_k,
        keep=None if top_k is None else true,
        absent=absent,
        context=context_of(prediction, reads, hidden, row, starts, attention_mask),
    )
    masked = masked[asked]
    found = evidence.log_weight(true, masked).double()
    acts = torch.zeros_like(asked[asked]) if circuit is None else circuit.is_possible(evidence)
    if circuit is not None and bool(acts.any()):
        marginals = circuit.posterior(evidence.rows(acts)).token_marginals()
        per_token = marginals.gather(-1, true[acts, :, None]).squeeze(-1).double().log()
        found[acts] = per_token.masked_fill(~masked[acts], 0.0).sum(-1)
    return found.new_zeros(len(canvas)).index_add_(0, row, found)
