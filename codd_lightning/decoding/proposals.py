"""Proposals: which tokens one denoising step commits, where, and how sure.

Every proposal answers the same question: *given the backbone's prediction of a window (and, for those
with a circuit, its posterior), this many tokens may be committed in each row, positions are ranked
like this: which tokens, where, how sure?*
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from codd_lightning.circuits import Posterior, beam_search, best_completion, draw, sample_completions
from codd_lightning.decoding.remasking import Ranking, best_first
from codd_lightning.decoding.sampling import RowDraws, restrict, sharpen

BEST_BEAMS, BEST_SAMPLES = 8, 8  # candidates of the "best" proposal, beside max-product's


@dataclass(frozen=True)
class Question:
    """One denoising step of `B` windows of `L` positions.

    Attributes:
        logits: `(B, L, V)`, the backbone's; minus infinity at the mask token.
        masked: `(B, L)` bool, positions that can be committed.
        opened: `(B, L)` bool, all masked positions, those that can be committed among them.
        behind: `(B,)` bool, whether a mask lies left of the window.
        quota: `(B,)` long, how many may be.
        ranking: the remasking strategy.
        draws: randomness of the rows.
        eos_token_ids: `(E,)` long.
        eos_last: EOS may only be committed where no mask is left of it, and then outside the quota.
        temperature, top_p, top_k: of the backbone's distribution where it is sampled.
        tau: sharpening of the coupled distribution.
        posterior: of the circuit; None where none acts.
    """

    logits: Tensor
    masked: Tensor
    opened: Tensor
    behind: Tensor
    quota: Tensor
    ranking: Ranking
    draws: RowDraws
    eos_token_ids: Tensor
    eos_last: bool
    temperature: float
    top_p: float | None
    top_k: int | None
    tau: float
    posterior: Posterior | None = None

    def ranking_uniforms(self, active: Tensor | None = None) -> Tensor:
        """What the ranking may draw: `(B, L)`, fresh in the active rows (all if None) if it does draw."""
        uniforms = torch.zeros(self.masked.shape, device=self.masked.device)
        if self.ranking.draws:
            rows = self.everyone if active is None else active.nonzero().squeeze(-1)
            uniforms[rows] = self.draws.rows(rows).uniforms(uniforms.shape[1])
        return uniforms

    def due(self, opened: Tensor) -> Tensor:
        """`(B, L)` bool: the position with no mask left of it, of those still open, where EOS may be committed."""
        return leftmost(opened) & ~self.behind[:, None]

    @property
    def everyone(self) -> Tensor:
        """`(B,)` numbers of the rows."""
        return torch.arange(len(self.quota), device=self.quota.device)

    def token_of(self, index: Tensor, positions: Tensor | None = None) -> Tensor:
        """Token ids of `(B, L)` places among the candidates, or of `(B,)` at one position per row."""
        candidates = None if self.posterior is None else self.posterior.evidence.candidates
        if candidates is None:
            return index
        if positions is not None:
            candidates = candidates[self.everyone, positions]
        return candidates.gather(-1, index[..., None]).squeeze(-1)

    def eos_among(self, positions: Tensor, count: int) -> Tensor:
        """`(B, count)` bool: which candidates of one position per row end a response."""
        places = torch.arange(count, device=positions.device).expand(len(positions), -1)
        candidates = None if self.posterior is None else self.posterior.evidence.candidates
        return self.is_eos(places if candidates is None else candidates[self.everyone, positions])

    def is_eos(self, tokens: Tensor) -> Tensor:
        """Which tokens end a response."""
        return torch.isin(tokens, self.eos_token_ids)


@dataclass(frozen=True)
class Answer:
    """What a step commits.

    Attributes:
        tokens: `(B, L)` long.
        committed: `(B, L)` bool, the positions where they count.
        confidence: `(B, L)`, untempered probability of each token.
        circuit_calls: `(B,)` long, conditional distributions asked of the circuit.
    """

    tokens: Tensor
    committed: Tensor
    confidence: Tensor
    circuit_calls: Tensor


@dataclass(frozen=True)
class Proposal:
    """A way to answer.

    Attributes:
        answer: to a question.
        coupled: whether it asks the circuit's posterior.
        tempers_evidence: whether the backbone's logits are divided by tau before the circuit is conditioned on them.
    """

    answer: Callable[[Question], Answer]
    coupled: bool
    tempers_evidence: bool = False


def leftmost(masked: Tensor) -> Tensor:
    """`(B, L)` bool: the first masked position of each row."""
    return masked & (masked.cumsum(-1) == 1)


def _factorized(question: Question) -> Answer:
    """Each position by itself from the backbone's distribution; the best-ranked are kept."""
    untempered = question.logits.softmax(-1)
    if question.temperature == 0.0:
        tokens = question.logits.argmax(-1)
    else:
        tempered = (question.logits / question.temperature).softmax(-1)
        tempered = restrict(tempered, question.top_k, question.top_p)
        tokens = draw(tempered, question.draws.uniforms(tempered.shape[1]))
    calls = torch.zeros_like(question.quota)
    return _keep_best(question, untempered, tokens, calls, greedy=question.temperature == 0.0)


def _latent(question: Question) -> Answer:
    """Latent-state sampling (paper 5.1): `z ~ p̂(Z)`, then tokens from `p̂(X|z)^(1/tau)`."""
    posterior = _require_posterior(question)
    length = question.masked.shape[1]
    latents = posterior.sample_latents(uniforms=question.draws.uniforms(posterior.num_draws))
    untempered = posterior.candidate_distribution(latents)
    if question.tau == 0.0:
        chosen = untempered.argmax(-1)
    else:
        chosen = draw(sharpen(untempered, question.tau), question.draws.uniforms(length))
    return _keep_best(question, untempered, chosen, torch.ones_like(question.quota), greedy=False)


def _latent_reference(question: Question) -> Answer:
    """As the reference code: `z ~ p̂(Z)` and `x ∝ p_θ^(1/tau)(x) E(z, x)`, the evidence itself being tempered.

    Positions are ranked by the backbone's own distribution: the posterior's is tempered, and would tie.
    """
    posterior = _require_posterior(question)
    latents = posterior.sample_latents(uniforms=question.draws.uniforms(posterior.num_draws))
    chosen = draw(posterior.candidate_distribution(latents), question.draws.uniforms(question.masked.shape[1]))
    tokens = question.token_of(chosen)
    untempered, calls = question.logits.softmax(-1), torch.ones_like(question.quota)
    return _keep_best(question, untempered, tokens, calls, greedy=question.tau == 0.0, tokens=tokens)


def _marginal(question: Question) -> Answer:
    """Every position by itself from its exact posterior marginal."""
    marginals = _require_posterior(question).candidate_marginals()
    if question.tau == 0.0:
        chosen = marginals.argmax(-1)
    else:
        chosen = draw(sharpen(marginals, question.tau), question.draws.uniforms(marginals.shape[1]))
    return _keep_best(question, marginals, chosen, torch.ones_like(question.quota), greedy=question.tau == 0.0)


def _map(question: Question) -> Answer:
    """The tokens of the most probable (latents, tokens) pair, by max-product."""
    posterior = _require_posterior(question)
    calls, tokens = torch.ones_like(question.quota), posterior.mode().tokens
    marginals, chosen = _marginals_with(question, posterior, tokens)
    return _keep_best(question, marginals, chosen, calls, greedy=True, tokens=tokens)


def _best(question: Question) -> Answer:
    """The best by exact score `log p̂(x)` of max-product, a beam and samples of the posterior."""
    posterior = _require_posterior(question)
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
    return _keep_best(question, marginals, chosen, calls, greedy=True, tokens=tokens)


def _marginals_with(question: Question, posterior: Posterior, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Marginals over the candidates, and the place of each token among them (that of the first where it is known)."""
    candidates = posterior.evidence.candidates
    if candidates is None:
        return posterior.token_marginals(), tokens
    return posterior.candidate_marginals(), (candidates == tokens[..., None]).int().argmax(-1)


def _any_order(question: Question) -> Answer:
    """Any-order sampling (paper 5.1): rank, draw from the exact conditional, condition, ask again.

    The position is chosen before its token is drawn, by the untempered conditional, so that with
    tau = 1 the tokens of a step are an exact draw from the coupled distribution.
    """
    posterior = _require_posterior(question)
    rows = question.everyone
    masked, opened = question.masked.clone(), question.opened.clone()
    tokens = torch.zeros_like(masked, dtype=torch.long)
    committed = torch.zeros_like(masked)
    confidence = question.logits.new_zeros(masked.shape)
    calls = torch.zeros_like(question.quota)
    quota = question.quota.clone()
    ended = torch.zeros_like(quota, dtype=torch.bool)

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
        position, distribution = _choose_position(question, posterior, masked, first, active)
        at_first = first[rows, position]
        if question.eos_last:
            withheld = distribution.masked_fill(question.eos_among(position, distribution.shape[-1]), 0.0)
            distribution = torch.where(
                at_first[:, None] | (withheld.sum(-1, keepdim=True) == 0), distribution, withheld
            )
            distribution = distribution / distribution.sum(-1, keepdim=True)
        choice = _pick(question, distribution, active)
        calls += active
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
) -> tuple[Tensor, Tensor]:
    """The best-ranked position of each row, `(B,)`, and its conditional distribution over the candidates."""
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
        return position, posterior.candidate_marginals(position)
    return position, marginals[torch.arange(len(position), device=position.device), position]


def _pick(question: Question, distribution: Tensor, active: Tensor) -> Tensor:
    """One place per row of a distribution: the most probable at tau = 0, else a draw by the active rows."""
    if question.tau == 0.0:
        return distribution.argmax(-1)
    tokens = torch.zeros_like(question.quota)
    chosen = active.nonzero().squeeze(-1)
    uniforms = question.draws.rows(chosen).uniforms(1).squeeze(-1)
    tokens[chosen] = draw(sharpen(distribution[chosen], question.tau), uniforms)
    return tokens


def _keep_best(
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
    nothing_asked = torch.zeros_like(question.quota)
    return _keep_best(question, untempered, untempered.argmax(-1), nothing_asked, greedy=True).committed


def _require_posterior(question: Question) -> Posterior:
    assert question.posterior is not None, "the loop gives coupled proposals a posterior"
    return question.posterior


PROPOSALS: dict[str, Proposal] = {
    "factorized": Proposal(_factorized, coupled=False),
    "latent": Proposal(_latent, coupled=True),
    "latent_reference": Proposal(_latent_reference, coupled=True, tempers_evidence=True),
    "any_order": Proposal(_any_order, coupled=True),
    "marginal": Proposal(_marginal, coupled=True),
    "map": Proposal(_map, coupled=True),
    "best": Proposal(_best, coupled=True),
}
