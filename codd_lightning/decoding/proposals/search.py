"""The most probable completions that can be found: by max-product, or the best of several searches."""

import torch
from torch import Tensor

from codd_lightning.circuits import Posterior, beam_search, best_completion, sample_completions
from codd_lightning.decoding.keeping import keep_best
from codd_lightning.decoding.question import Answer, Question, register_proposal, require_posterior

BEST_BEAMS, BEST_SAMPLES = 8, 8  # candidates of the "best" proposal, beside max-product's


@register_proposal("map", coupled=True, reads_latents=True)
def _map(question: Question) -> Answer:
    """The tokens of the most probable (latents, tokens) pair, by max-product."""
    posterior = require_posterior(question)
    calls, tokens = torch.ones_like(question.quota), posterior.mode().tokens
    marginals, chosen = _marginals_with(question, posterior, tokens)
    return keep_best(question, marginals, chosen, calls, greedy=True, tokens=tokens)


@register_proposal("best", coupled=True, reads_latents=True)
def _best(question: Question) -> Answer:
    """The best by exact score `log p̂(x)` of max-product, a beam and samples of the posterior."""
    posterior = require_posterior(question)
    batch_size, length = question.masked.shape
    width = posterior.num_draws + length
    uniforms = question.draws.uniforms(BEST_SAMPLES * width).view(-1, width)
    repeated = posterior.rows(question.everyone.repeat_interleave(BEST_SAMPLES))
    samples = sample_completions(repeated, uniforms=uniforms).view(batch_size, BEST_SAMPLES, length)
    beams = beam_search(posterior, BEST_BEAMS).tokens
    candidates = torch.cat([posterior.mode().tokens[:, None], beams, samples], 1)
    tokens, _ = best_completion(posterior, candidates)
    calls = torch.full_like(question.quota, 2 + BEST_SAMPLES)
    marginals, chosen = _marginals_with(question, posterior, tokens)
    return keep_best(question, marginals, chosen, calls, greedy=True, tokens=tokens)


def _marginals_with(question: Question, posterior: Posterior, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Marginals over the candidates, and the place of each token among them (that of the first where it is known)."""
    candidates = posterior.evidence.candidates
    if candidates is None:
        return posterior.token_marginals(), tokens
    return posterior.candidate_marginals(), (candidates == tokens[..., None]).int().argmax(-1)
