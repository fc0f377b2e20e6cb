"""Every position by itself, from its exact posterior marginal."""

import torch

from codd_lightning.circuits import draw
from codd_lightning.decoding.keeping import keep_best
from codd_lightning.decoding.question import Answer, Question, register_proposal, require_posterior
from codd_lightning.decoding.sampling import sharpen


@register_proposal("marginal", coupled=True)
def _marginal(question: Question) -> Answer:
    """Every position by itself from its exact posterior marginal."""
    marginals = require_posterior(question).candidate_marginals()
    if question.tau == 0.0:
        chosen = marginals.argmax(-1)
    else:
        chosen = draw(sharpen(marginals, question.tau), question.position_uniforms())
    return keep_best(question, marginals, chosen, torch.ones_like(question.quota), greedy=question.tau == 0.0)
