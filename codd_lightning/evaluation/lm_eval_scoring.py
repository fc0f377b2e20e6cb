"""Continuations scored for lm-eval: the bound on their log-likelihood, and whether greedy decoding writes them."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from codd_lightning.backbones import AnyBackbone, device_of
from codd_lightning.circuits import Circuit
from codd_lightning.decoding import DecodingConfig, generate
from codd_lightning.evaluation.lm_eval_options import ModelOptions
from codd_lightning.evaluation.lm_eval_requests import Request, batches
from codd_lightning.evaluation.masked_bound import masked_log_likelihood, masks_of


@dataclass(frozen=True)
class Scored:
    """A continuation whose log-likelihood is asked for.

    Attributes:
        request: which it belongs to; a long text has several.
        part: its place among those.
        context: token ids before it.
        continuation: token ids.
    """

    request: Request
    part: int
    context: list[int]
    continuation: list[int]

    def draws(self, options: ModelOptions) -> Iterator[tuple["Scored", Tensor, float]]:
        """Every draw of masked tokens, `(L,)` bool, with its weight."""
        generator = self.request.generator(options.seed, f"loglikelihood {self.part}")
        masks = masks_of(len(self.continuation), options.mc_samples, generator)
        for masked, weight in zip(masks.masked, masks.weights.tolist(), strict=True):
            yield self, masked, weight


def bounds_of(
    backbone: AnyBackbone,
    circuit: Circuit | None,
    options: ModelOptions,
    parts: Sequence[Scored],
    done: Callable[[], object],
) -> dict[Request, float]:
    """The bound of each request, the sum of those of its parts, nats; 0 where it has no token.

    Args:
        backbone, circuit: what scores.
        options: seed, number of draws, batch size and block length.
        parts: what is scored; masked canvases of several are scored together.
        done: called as each part is begun.
    """
    found: dict[Request, float] = defaultdict(float)

    def draws(members: list[Scored]) -> Iterator[tuple[Scored, Tensor, float]]:
        for scored in members:
            yield from scored.draws(options)
            done()

    for members in _by_length(parts):
        for batch in batches(draws(members), options.batch_size):
            scores = _scores(backbone, circuit, options.decoding, [(scored, masked) for scored, masked, _ in batch])
            for (scored, _, weight), score in zip(batch, scores, strict=True):
                found[scored.request] += weight * score
    return found


def _scores(
    backbone: AnyBackbone, circuit: Circuit | None, config: DecodingConfig, rows: list[tuple[Scored, Tensor]]
) -> list[float]:
    """`Σ log p̂` of the masked tokens of each row; contexts are padded on the left."""
    width = max(len(scored.context) for scored, _ in rows)
    tokens = torch.tensor([scored.continuation for scored, _ in rows])  # (B, L)
    masked = torch.stack([masked for _, masked in rows])
    before = torch.zeros(len(rows), width, dtype=torch.long)
    attention_mask = torch.ones(len(rows), width + tokens.shape[1], dtype=torch.long)
    for row, (scored, _) in enumerate(rows):
        start = width - len(scored.context)
        before[row, start:] = torch.tensor(scored.context, dtype=torch.long)
        attention_mask[row, :start] = 0
    canvas = torch.cat([before, tokens.masked_fill(masked, backbone.mask_token_id)], dim=1)
    device = device_of(backbone)
    found = masked_log_likelihood(
        backbone,
        canvas.to(device),
        tokens.to(device),
        attention_mask.to(device),
        circuit,
        config.block_length,
        config.evidence_top_k,
    )
    return found.tolist()


def written_greedily(
    backbone: AnyBackbone, circuit: Circuit | None, options: ModelOptions, parts: Sequence[Scored]
) -> set[Request]:
    """The requests whose continuation comes out of greedy decoding, one token a step and the surest first."""
    found = {scored.request for scored in parts if not scored.continuation}
    decoding = options.decoding
    for members in _by_length(parts):
        length = len(members[0].continuation)
        config = DecodingConfig(
            paradigm=decoding.paradigm,
            proposal=decoding.proposal,
            steps=length,
            max_new_tokens=length,
            block_length=decoding.block_length,
            stop_at_eos=False,
            evidence_top_k=decoding.evidence_top_k,
        )
        for batch in batches(members, options.batch_size):
            contexts = [scored.context for scored in batch]
            sequences = generate(backbone, contexts, config, circuit=circuit).sequences
            for scored, sequence in zip(batch, sequences, strict=True):
                if sequence == scored.context + scored.continuation:
                    found.add(scored.request)
    return found


def _by_length(parts: Sequence[Scored]) -> Iterator[list[Scored]]:
    """Those with equally many tokens to score together, the shortest contexts first; none without tokens."""
    groups: dict[int, list[Scored]] = defaultdict(list)
    for scored in sorted(parts, key=lambda scored: len(scored.context)):
        if scored.continuation:
            groups[len(scored.continuation)].append(scored)
    yield from groups.values()
