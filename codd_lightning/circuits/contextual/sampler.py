"""A learned sampler in a circuit's place: one layer, asked again after every token that it draws."""

import copy
import dataclasses
from typing import Any, ClassVar, NoReturn

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from codd_lightning.circuits.circuit import Circuit, register_circuit
from codd_lightning.circuits.context import Reads
from codd_lightning.circuits.contextual.features import HEAD_WIDTH, Adapter, require_context
from codd_lightning.circuits.contextual.heads import EmissionRoles
from codd_lightning.circuits.errors import CircuitError, EvidenceError
from codd_lightning.circuits.evidence import Evidence
from codd_lightning.circuits.posterior import Mode, Posterior

NEARBY = 5  # positions around each whose drawn tokens it sees at once: attention learns slowly to look beside it
ONE_ORDER = "a sampler head draws one token after another and has {}; use a proposal that does so: any_order"


@register_circuit("sampler_head")
class SamplerHead(Circuit):
    """Transformer layers over the backbone's hidden states and the tokens drawn so far (ADJUST; Bansal and Sanghavi,
    2025, arXiv 2509.22738).

    One cheap pass says of every position what its token is, given those drawn since the backbone's pass:
    `q(x_i | drawn) ∝ p_θ(x_i) exp⟨U f_i(drawn), T_{x_i}⟩`, with `U = 0` at the start. Here it is trained on the data,
    as circuits are, not on what the backbone would have drawn.

    It is no circuit: there is no `p_ω` apart from the backbone, no latent state, and the joint distribution of a set
    of tokens depends on the order in which they are drawn. It answers as a circuit where it can: `log_conditional`
    is that of drawing from left to right, normalised as it is, so that Z = 1; marginals are those of the token
    that is drawn next.

    Args:
        vocab_size: V.
        block_length: the most positions that a block may have.
        hidden_size: D, of the backbone's hidden states.
        width: of the layers, a multiple of 16.
        layers: how many.
        rank: of the reweighting.

    Raises:
        CircuitError: a size is out of range.
    """

    tables: ClassVar[dict[str, int]] = {}
    reads = Reads.EVERYTHING_BEFORE
    has_latents = False

    def __init__(
        self,
        vocab_size: int,
        block_length: int,
        hidden_size: int,
        width: int = 64,
        layers: int = 1,
        rank: int = 64,
    ) -> None:
        super().__init__()
        sizes = {"vocab_size": vocab_size, "block_length": block_length, "hidden_size": hidden_size}
        self._options = {"width": width, "layers": layers, "rank": rank}
        for name, size in {**sizes, **self._options}.items():
            if not isinstance(size, int) or size < 1:
                raise CircuitError(f"{name} must be a whole number of at least 1, not {size!r}")
        if width % HEAD_WIDTH:
            raise CircuitError(f"circuit.width={width} must be a multiple of {HEAD_WIDTH} (the width of a head)")
        self.vocab_size, self.block_length, self.hidden_size = vocab_size, block_length, hidden_size
        self.adapter = Adapter(hidden_size, block_length, width, layers)
        self.known = nn.Embedding(vocab_size, width)
        self.nearby = nn.Conv1d(width, width, NEARBY, padding=NEARBY // 2)
        self.emission = EmissionRoles(self.adapter.size, vocab_size, 1, rank)
        nn.init.normal_(self.emission.tokens, std=rank**-0.5)  # scores of size 1 whatever the rank

    def config(self) -> dict[str, Any]:
        sizes = {name: getattr(self, name) for name in ("vocab_size", "block_length", "hidden_size")}
        return {**sizes, **self._options}

    def next_tokens(self, evidence: Evidence) -> Evidence:
        """The evidence as the head reads it: at each soft position the distribution of its token if drawn next.

        Raises:
            EvidenceError: there is no context, or it does not fit the head.
        """
        self._check_evidence(evidence)
        context = evidence.context
        if context is None or context.before is None:
            raise EvidenceError(
                "a sampler head reads hidden states of the block and of what lies before: there are none"
            )
        require_context(context, evidence, self.hidden_size, self.reads)
        soft = evidence.soft
        unknown = soft if evidence.absent is None else soft | evidence.absent
        with torch.autocast(evidence.tokens.device.type, enabled=False):  # as the sums of a circuit
            known = self.known(evidence.tokens).masked_fill(unknown[..., None], 0.0)
            known = self.nearby(known.transpose(1, 2)).transpose(1, 2)
            features = self.adapter(context, soft.float().mean(-1), known)
            roles = self.emission(features, evidence)
        return dataclasses.replace(evidence, roles=roles, context=None).read_by(0)

    def log_joint(self, tokens: Tensor, evidence: Evidence, where: Tensor | None = None) -> Tensor:
        """`log q(x)` of drawing the tokens of `where` from left to right, the others after them."""
        self._check_completion(tokens, evidence, where)
        if evidence.batch_size < len(tokens):  # one row, for any number of completions
            evidence = evidence.rows(torch.zeros(len(tokens), dtype=torch.long, device=tokens.device))
        scored = evidence.soft if where is None else evidence.soft & where
        total = evidence.log_weight(tokens, ~evidence.soft if where is None else where & ~evidence.soft)
        for position in range(evidence.length):
            here = torch.zeros_like(scored)
            here[:, position] = scored[:, position]
            if bool(here.any()):
                total = total + self.next_tokens(evidence).log_weight(tokens, here)
                evidence = evidence.clamp(tokens, here)
        return total

    def log_conditional_estimate(self, tokens: Tensor, evidence: Evidence, generator: torch.Generator) -> Tensor:
        """An unbiased estimate of the mean over all orders of `log q(x)`, by one pass.

        Of n tokens, k (0 to n − 1) are given, and the others' mean counts n times.
        """
        self._check_completion(tokens, evidence, None)
        soft = evidence.soft
        count = soft.sum(-1)
        draws = torch.rand(len(soft), evidence.length + 1, generator=generator).to(tokens.device)
        given = (draws[:, -1] * count).long()
        rank = draws[:, :-1].masked_fill(~soft, torch.inf).argsort(-1).argsort(-1)
        shown = soft & (rank < given[:, None])
        scored = soft & ~shown
        found = self.next_tokens(evidence.clamp(tokens, shown)).log_weight(tokens, scored)
        return found * (count / scored.sum(-1).clamp_min(1))

    def log_partition(self, evidence: Evidence) -> Tensor:
        """0: what is drawn one after another is normalised."""
        self._check_evidence(evidence)
        return evidence.weights.new_zeros(evidence.batch_size)

    def posterior(self, evidence: Evidence) -> "SamplerPosterior":
        self._check_evidence(evidence)
        return SamplerPosterior(self, evidence)

    def log_prob(self, tokens: Tensor) -> NoReturn:
        raise CircuitError("a sampler head knows no text apart from a backbone's hidden states: use log_conditional")

    def expected_counts(self, evidence: Evidence, weights: Tensor | None = None) -> NoReturn:
        raise CircuitError("a sampler head has no tables to count in: train it by gradients, as with optimizer=adamw")

    def _log_sum(self, evidence: Evidence) -> Tensor:
        return self.log_partition(evidence)


class SamplerPosterior(Posterior):
    """Distributions of the token that is drawn next, given evidence and the tokens drawn since."""

    num_draws = 0

    def __init__(self, circuit: SamplerHead, evidence: Evidence) -> None:
        self.circuit = circuit
        self._evidence = evidence
        self._next: Evidence | None = None

    @property
    def evidence(self) -> Evidence:
        return self._evidence

    @torch.no_grad()
    def token_marginals(self, positions: Tensor | None = None) -> Tensor:
        weights = self._read().dense_weights(positions)
        at: slice | tuple[Tensor, Tensor] = slice(None)
        if positions is not None:
            at = (torch.arange(len(positions), device=positions.device), positions)
        known = F.one_hot(self._evidence.tokens[at], weights.shape[-1]).to(weights.dtype)
        mass = torch.where(self._evidence.observed[at][..., None], known, weights)
        return mass / mass.sum(-1, keepdim=True)

    @torch.no_grad()
    def candidate_marginals(self, positions: Tensor | None = None) -> Tensor:
        if self._evidence.candidates is None:
            return self.token_marginals(positions)
        weights = self._read().weights
        return weights if positions is None else weights[torch.arange(len(weights)), positions]

    def condition(self, row: Tensor | int, position: Tensor | int, token: Tensor | int) -> None:
        tokens, where = self._evidence.tokens.clone(), torch.zeros_like(self._evidence.observed)
        tokens[row, position] = torch.as_tensor(token, device=tokens.device)
        where[row, position] = True
        self._evidence = self._evidence.clamp(tokens, where)
        self._next = None

    def rows(self, index: Tensor) -> "SamplerPosterior":
        chosen = copy.copy(self)
        chosen._evidence = self._evidence.rows(index)
        chosen._next = None if self._next is None else self._next.rows(index)
        return chosen

    def sample_latents(self, generator: torch.Generator | None = None, uniforms: Tensor | None = None) -> NoReturn:
        raise CircuitError(ONE_ORDER.format("no latent states"))

    def token_distribution(self, latents: Tensor) -> NoReturn:
        raise CircuitError(ONE_ORDER.format("no latent states"))

    def candidate_distribution(self, latents: Tensor) -> NoReturn:
        raise CircuitError(ONE_ORDER.format("no latent states"))

    def mode(self) -> Mode:
        raise CircuitError(ONE_ORDER.format("no most probable completion that can be found"))

    def entropy(self) -> NoReturn:
        raise CircuitError(ONE_ORDER.format("no entropy that can be computed"))

    @torch.no_grad()
    def _read(self) -> Evidence:
        if self._next is None:
            circuit = self.circuit
            assert isinstance(circuit, SamplerHead)
            self._next = circuit.next_tokens(self._evidence)
        return self._next
