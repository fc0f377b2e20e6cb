"""Completions found in a posterior: sampled, searched for, and compared by their exact score."""

from dataclasses import dataclass

import torch
from torch import Tensor

from codd_lightning.circuits.categorical import draw
from codd_lightning.circuits.errors import CircuitError
from codd_lightning.circuits.posterior import Posterior


@dataclass(frozen=True)
class Completions:
    """Some completions of each block.

    Attributes:
        tokens: `(B, K, L)` long; 0 where absent.
        log_prob: `(B, K)` nats, exact `log p̂(x)`.
    """

    tokens: Tensor
    log_prob: Tensor


def sample_completions(
    posterior: Posterior, *, generator: torch.Generator | None = None, uniforms: Tensor | None = None
) -> Tensor:
    """One draw from `p̂(x)` for each block, `(B, L)` long; 0 where absent.

    Args:
        posterior: of B blocks; `posterior.rows` makes several of one.
        generator: source of the draws; the default generator if None.
        uniforms: `(B, num_draws + L)` numbers in [0, 1) to draw with instead.
    """
    evidence = posterior.evidence
    shape = (evidence.batch_size, posterior.num_draws + evidence.length)
    if uniforms is None:
        uniforms = torch.rand(shape, generator=generator).to(evidence.tokens.device)
    if tuple(uniforms.shape) != shape:
        raise CircuitError(f"uniforms must have shape {shape}, not {tuple(uniforms.shape)}")
    latents = posterior.sample_latents(uniforms=uniforms[:, : posterior.num_draws])
    tokens = draw(posterior.token_distribution(latents), uniforms[:, posterior.num_draws :])
    return tokens if evidence.absent is None else tokens.masked_fill(evidence.absent, 0)


def beam_search(posterior: Posterior, width: int) -> Completions:
    """The `width` most probable completions that a beam over tokens finds, best first.

    Prefixes are ranked by their exact posterior probability, all later tokens summed out, so that no
    beam is greedy about the future. Where fewer completions exist, the rest score minus infinity.

    Args:
        posterior: of B blocks; left as it is.
        width: prefixes kept at every position.
    """
    if width < 1:
        raise CircuitError(f"width must be at least 1, not {width}")
    evidence = posterior.evidence
    batch_size, length = evidence.tokens.shape
    device = evidence.tokens.device
    absent = torch.zeros_like(evidence.observed) if evidence.absent is None else evidence.absent
    first_row = torch.arange(batch_size, device=device)[:, None] * width
    beams = posterior.rows(torch.arange(batch_size, device=device).repeat_interleave(width))
    tokens = torch.zeros(batch_size * width, length, dtype=torch.long, device=device)
    score = torch.full((batch_size, width), -torch.inf, device=device)
    score[:, 0] = 0.0
    for position in range(length):
        marginals = beams.token_marginals(torch.full((batch_size * width,), position, device=device))  # (B W, V)
        vocab_size = marginals.shape[-1]
        gone = absent[:, position].repeat_interleave(width)
        marginals[gone] = 0.0  # no choice there: token 0, at no cost
        marginals[gone, 0] = 1.0
        extended = score[..., None] + marginals.log().view(batch_size, width, vocab_size)
        score, choice = extended.flatten(1).topk(width, -1)
        source = (first_row + choice // vocab_size).flatten()
        token = (choice % vocab_size).flatten()
        beams, tokens = beams.rows(source), tokens[source]
        tokens[:, position] = token
        known = (~gone).nonzero().squeeze(-1)
        beams.condition(known, torch.full_like(known, position), token[known])
    tokens = tokens.masked_fill(absent.repeat_interleave(width, 0), 0)
    return Completions(tokens.view(batch_size, width, length), score)


@torch.no_grad()
def best_completion(posterior: Posterior, candidates: Tensor) -> tuple[Tensor, Tensor]:
    """The candidate with the largest exact score `log p̂(x)`: tokens `(B, L)`, and that score `(B,)`.

    Args:
        posterior: of B blocks.
        candidates: `(B, K, L)` long.
    """
    evidence = posterior.evidence
    if candidates.dim() != 3 or candidates.shape[::2] != evidence.tokens.shape or not candidates.shape[1]:
        expected = f"({evidence.batch_size}, K, {evidence.length}) with K at least 1"
        raise CircuitError(f"candidates must have shape {expected}, not {tuple(candidates.shape)}")
    batch_size, count = candidates.shape[:2]
    rows = torch.arange(batch_size, device=candidates.device)
    scores = posterior.rows(rows.repeat_interleave(count)).log_prob(candidates.flatten(0, 1)).view(batch_size, count)
    score, best = scores.max(-1)
    return candidates[rows, best], score
