"""Any-order sampling: position after position from its exact conditional."""

import math

import torch
from torch import Tensor

from codd_lightning.circuits import Posterior, draw
from codd_lightning.decoding.question import Answer, Question, register_proposal, require_posterior
from codd_lightning.decoding.sampling import sharpen


@register_proposal("any_order", coupled=True, knows_joint=True)
def _any_order(question: Question) -> Answer:
    """Any-order sampling (paper 5.1): rank, draw from the exact conditional, condition, ask again.

    The position is chosen before its token is drawn, by the untempered conditional, so that with
    tau = 1 the tokens of a step are an exact draw from the coupled distribution.
    """
    posterior = require_posterior(question)
    rows = question.everyone
    masked, opened = question.masked.clone(), question.opened.clone()
    tokens = torch.zeros_like(masked, dtype=torch.long)
    committed = torch.zeros_like(masked)
    confidence = question.logits.new_zeros(masked.shape)
    calls = torch.zeros_like(question.quota)
    quota = question.quota.clone()
    ended = torch.zeros_like(quota, dtype=torch.bool)
    log_joint = torch.zeros_like(confidence[:, 0])  # of what this step has committed

    def commit(active: Tensor, position: Tensor, choice: Tensor, distribution: Tensor) -> None:
        chosen, where = rows[active], position[active]
        what = question.token_of(choice, position)[active]
        tokens[chosen, where] = what
        committed[chosen, where] = True
        confidence[chosen, where] = distribution[chosen, choice[active]].to(confidence.dtype)
        masked[chosen, where] = False
        opened[chosen, where] = False
        posterior.condition(chosen, where, what)

    while True:
        active = (quota > 0) & masked.any(-1) & ~ended
        if not bool(active.any()):
            break
        first = question.due(opened)
        position, distribution, possible = _choose_position(question, posterior, masked, first, active)
        ended |= ~possible  # all that could be committed is EOS, and none is due
        active &= possible
        at_first, exact = first[rows, position], distribution
        if question.eos_last:
            withheld = distribution.masked_fill(question.eos_among(position, distribution.shape[-1]), 0.0)
            distribution = torch.where(
                at_first[:, None] | (withheld.sum(-1, keepdim=True) == 0), distribution, withheld
            )
            distribution = distribution / distribution.sum(-1, keepdim=True)
        choice = _pick(question, distribution, active)
        calls += active
        if question.least_joint is not None:
            log_joint = log_joint + exact.gather(-1, choice[:, None]).squeeze(-1).log().to(log_joint)
            least = math.log(question.least_joint) if question.least_joint else -math.inf
            stays = (log_joint >= least) | ~committed.any(-1)
            ended |= active & ~stays
            active &= stays
        commit(active, position, choice, distribution)
        if question.eos_last:
            ended |= active & at_first & question.is_eos(question.token_of(choice, position))
        quota -= active.long()

    if question.eos_last and question.tau == 0.0:  # an EOS due next costs no quota; drawn, it would get two chances
        due = question.due(opened)
        active = due.any(-1) & ~ended & (question.quota > 0)
        if bool(active.any()):
            position = due.int().argmax(-1)
            distribution = posterior.candidate_marginals(position)
            choice = distribution.argmax(-1)
            calls += active
            commit(active & question.is_eos(question.token_of(choice, position)), position, choice, distribution)
    return Answer(tokens, committed, confidence, calls)


def _choose_position(
    question: Question, posterior: Posterior, masked: Tensor, first: Tensor, active: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The best-ranked position of each row, `(B,)`, its distribution over the candidates, and whether there is one."""
    eligible = masked
    ranking = question.ranking
    marginals = None
    if ranking.reads_distribution or (question.eos_last and ranking.draws):
        marginals = posterior.candidate_marginals()
        if question.eos_last:
            eligible = masked & (first | ~question.is_eos(question.token_of(marginals.argmax(-1))))
    no_probabilities = question.logits.new_zeros(0)
    scores = ranking.score(
        no_probabilities if marginals is None else marginals, None, question.ranking_uniforms(active)
    )
    position = scores.masked_fill(~eligible, -torch.inf).argmax(-1)
    if marginals is None:
        return position, posterior.candidate_marginals(position), eligible.any(-1)
    return position, marginals[torch.arange(len(position), device=position.device), position], eligible.any(-1)


def _pick(question: Question, distribution: Tensor, active: Tensor) -> Tensor:
    """One place per row of a distribution: the most probable at tau = 0, else a draw by the active rows."""
    if question.tau == 0.0:
        return distribution.argmax(-1)
    tokens = torch.zeros_like(question.quota)
    chosen = active.nonzero().squeeze(-1)
    uniforms = question.draws.rows(chosen).uniforms(1).squeeze(-1)
    tokens[chosen] = draw(sharpen(distribution[chosen], question.tau), uniforms)
    return tokens
