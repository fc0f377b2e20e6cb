"""Tokens given sampled latent states: the paper's way, and the reference code's."""

import torch

from codd_lightning.circuits import draw
from codd_lightning.decoding.keeping import keep_best
from codd_lightning.decoding.question import Answer, Question, register_proposal, require_posterior
from codd_lightning.decoding.sampling import sharpen


@register_proposal("latent", coupled=True, reads_latents=True)
def _latent(question: Question) -> Answer:
    """Latent-state sampling (paper 5.1): `z ~ p̂(Z)`, then tokens from `p̂(X|z)^(1/tau)`."""
    posterior = require_posterior(question)
    latents = posterior.sample_latents(uniforms=question.draws.uniforms(posterior.num_draws))
    untempered = posterior.candidate_distribution(latents)
    if question.tau == 0.0:
        chosen = untempered.argmax(-1)
    else:
        chosen = draw(sharpen(untempered, question.tau), question.position_uniforms())
    return keep_best(question, untempered, chosen, torch.ones_like(question.quota), greedy=False)


@register_proposal("latent_reference", coupled=True, tempers_evidence=True, reads_latents=True)
def _latent_reference(question: Question) -> Answer:
    """As the reference code: `z ~ p̂(Z)` and `x ∝ p_θ^(1/tau)(x) E(z, x)`, the evidence itself being tempered.

    Positions are ranked by the backbone's own distribution: the posterior's is tempered, and would tie.
    """
    posterior = require_posterior(question)
    latents = posterior.sample_latents(uniforms=question.draws.uniforms(posterior.num_draws))
    chosen = draw(posterior.candidate_distribution(latents), question.position_uniforms())
    tokens = question.token_of(chosen)
    untempered, calls = question.logits.softmax(-1), torch.ones_like(question.quota)
    return keep_best(question, untempered, tokens, calls, greedy=question.tau == 0.0, tokens=tokens)
