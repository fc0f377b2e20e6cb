"""Without a circuit: the backbone's own word, position by position."""

import torch

from codd_lightning.circuits import draw
from codd_lightning.decoding.keeping import keep_best
from codd_lightning.decoding.question import Answer, Question, register_proposal
from codd_lightning.decoding.sampling import restrict


@register_proposal("factorized", coupled=False)
def _factorized(question: Question) -> Answer:
    """Each position by itself from the backbone's distribution; the best-ranked are kept."""
    untempered = question.logits.softmax(-1)
    if question.temperature == 0.0:
        tokens = question.logits.argmax(-1)
    else:
        tempered = (question.logits / question.temperature).softmax(-1)
        tempered = restrict(tempered, question.top_k, question.top_p)
        tokens = draw(tempered, question.position_uniforms())
    calls = torch.zeros_like(question.quota)
    return keep_best(question, untempered, tokens, calls, greedy=question.temperature == 0.0)
