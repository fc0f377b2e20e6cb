"""Of tokens proposed for every masked position, those that a step keeps."""

from torch import Tensor

from codd_lightning.decoding.question import Answer, Question
from codd_lightning.decoding.remasking import best_first


def keep_best(
    question: Question, untempered: Tensor, chosen: Tensor, calls: Tensor, greedy: bool, tokens: Tensor | None = None
) -> Answer:
    """Commits the best-ranked of tokens proposed for every masked position, by the EOS rule.

    Tokens are given by their places among what `untempered` is over; None: the candidates are.

    An EOS that is due costs no quota: at the first masked position, and at the first one that the quota
    leaves, unless it was drawn and will be drawn again in a later step.
    """
    tokens = question.token_of(chosen) if tokens is None else tokens
    scores = question.ranking.score(untempered, chosen, question.ranking_uniforms())
    eligible = question.masked
    if question.eos_last:
        eligible = eligible & ~question.is_eos(tokens)
    committed = best_first(scores, eligible, question.quota)
    if question.eos_last:
        settled = greedy | (committed.sum(-1) < question.quota)  # (B,): all that is left is EOS
        due = question.due(question.opened) | (question.due(question.opened & ~committed) & settled[:, None])
        committed = committed | (due & question.is_eos(tokens))
    confidence = untempered.gather(-1, chosen[..., None]).squeeze(-1)
    return Answer(tokens, committed, confidence, calls)


def choose_targets(question: Question) -> Tensor:
    """`(B, L)` bool: the positions that a step of full diffusion commits, by the strategy on the backbone's word."""
    untempered = question.logits.softmax(-1)
    nothing_asked = question.quota.new_zeros(question.quota.shape)
    return keep_best(question, untempered, untempered.argmax(-1), nothing_asked, greedy=True).committed
