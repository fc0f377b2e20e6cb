"""What a proposal is asked in one denoising step, and what it answers."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from codd_lightning.circuits import Posterior
from codd_lightning.decoding.remasking import Ranking
from codd_lightning.decoding.sampling import RowDraws


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
        room: `(B,)` long, positions that exist: the rest of a window lies beyond the end.
        draws: randomness of the rows.
        eos_token_ids: `(E,)` long.
        eos_last: EOS may only be committed where no mask is left of it, and then outside the quota.
        temperature, top_p, top_k: of the backbone's distribution where it is sampled.
        tau: sharpening of the coupled distribution.
        posterior: of the circuit; None where none acts.
        least_joint: a proposal that draws one token after another stops before the exact joint probability of this
            step's tokens falls below it, after one token at least; None where the quota alone decides.
    """

    logits: Tensor
    masked: Tensor
    opened: Tensor
    behind: Tensor
    quota: Tensor
    ranking: Ranking
    room: Tensor
    draws: RowDraws
    eos_token_ids: Tensor
    eos_last: bool
    temperature: float
    top_p: float | None
    top_k: int | None
    tau: float
    posterior: Posterior | None = None
    least_joint: float | None = None

    def ranking_uniforms(self, active: Tensor | None = None) -> Tensor:
        """What the ranking may draw: `(B, L)`, fresh in the active rows (all if None) if it does draw."""
        uniforms = torch.zeros(self.masked.shape, device=self.masked.device)
        if self.ranking.draws:
            rows = self.everyone if active is None else active.nonzero().squeeze(-1)
            uniforms[rows] = self.draws.rows(rows).uniforms(uniforms.shape[1], self.room[rows])
        return uniforms

    def position_uniforms(self) -> Tensor:
        """`(B, L)`, one number for each position that exists."""
        return self.draws.uniforms(self.masked.shape[1], self.room)

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
        knows_joint: whether it draws one token after another, and so knows the joint probability of those it drew.
        reads_latents: whether it asks for latent states, which a sampler head has not.
        tempers_evidence: whether the backbone's logits are divided by tau before the circuit is conditioned on them.
    """

    answer: Callable[[Question], Answer]
    coupled: bool
    tempers_evidence: bool = False
    knows_joint: bool = False
    reads_latents: bool = False


PROPOSALS: dict[str, Proposal] = {}


def register_proposal(
    name: str,
    coupled: bool,
    tempers_evidence: bool = False,
    knows_joint: bool = False,
    reads_latents: bool = False,
) -> Callable[[Callable[[Question], Answer]], Callable[[Question], Answer]]:
    """Makes a way to answer known under a name."""

    def register(answer: Callable[[Question], Answer]) -> Callable[[Question], Answer]:
        PROPOSALS[name] = Proposal(answer, coupled, tempers_evidence, knows_joint, reads_latents)
        return answer

    return register


def require_posterior(question: Question) -> Posterior:
    """The posterior of a question that a coupled proposal was asked."""
    assert question.posterior is not None, "the loop gives coupled proposals a posterior"
    return question.posterior


def leftmost(masked: Tensor) -> Tensor:
    """`(B, L)` bool: the first masked position of each row."""
    return masked & (masked.cumsum(-1) == 1)
