"""What a circuit did to one response: who chose each token, and which pairs of tokens it made likelier."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from codd_lightning.backbones import AnyBackbone, as_backbone, device_of
from codd_lightning.circuits import Circuit, Evidence, Reads
from codd_lightning.decoding import DecodingConfig, Generation, context_of
from codd_lightning.decoding.canvas import Canvas
from codd_lightning.decoding.predictor import Predictor

LEAST_JOINT = 0.02  # of a pair that is looked at: what is rarer decides little, and all that are above can be found
LEAST_GAIN = 0.01  # nats: less is nothing to look at
LARGEST_TABLE = 1 << 24  # numbers of one table of conditionals


@dataclass(frozen=True)
class Commit:
    """One token of a response.

    Attributes:
        position: in the response, from 0.
        token: its id.
        step: of its row, from 1.
        confidence: its untempered probability where it was chosen.
        coupled: whether the circuit acted on its window.
        expected: the backbone's most probable token there, given the canvas before the step.
    """

    position: int
    token: int
    step: int
    confidence: float
    coupled: bool
    expected: int

    @property
    def changed(self) -> bool:
        """Whether the circuit changed it: the factorized decoder would have taken another token here.

        By its distribution, at temperature 0: on the canvas that this step began with, that is `expected`. The
        difference may come from the circuit's word on the whole block or, in any-order sampling, from tokens of the
        same step. At tau above 0 a token may also differ because it was drawn and not the most probable.
        """
        return self.coupled and self.token != self.expected


@dataclass(frozen=True)
class RaisedPair:
    """Two tokens of one block that the circuit wants together.

    Attributes:
        positions: in the block, from 0, ascending.
        tokens: their ids.
        factorized: the product of the backbone's two probabilities.
        coupled: the exact joint probability under circuit × evidence.
    """

    positions: tuple[int, int]
    tokens: tuple[int, int]
    factorized: float
    coupled: float


def commits(generation: Generation, row: int = 0) -> list[Commit]:
    """The tokens of one row in the order of their steps.

    Args:
        generation: with its trace.
        row: whose.
    """
    assert generation.trace is not None, "asked for with a trace only"
    first = min((int(step.columns.min()) for step in generation.trace), default=0)  # of the response
    found: list[Commit] = []
    for step in generation.trace:
        for window in (step.rows == row).nonzero().squeeze(-1).tolist():
            for place in step.committed[window].nonzero().squeeze(-1).tolist():
                column = int(step.columns[window, place])
                found.append(
                    Commit(
                        position=column - first,
                        token=int(step.canvas[window, column]),
                        step=int(step.number[window]),
                        confidence=float(step.confidence[window, place]),
                        coupled=bool(step.coupled[window]),
                        expected=int(step.expected[window, place]),
                    )
                )
    return found


@torch.no_grad()
def block_evidence(
    backbone: AnyBackbone,
    prompt: Sequence[int],
    config: DecodingConfig,
    generation: Generation,
    reads: Reads = Reads.NOTHING,
) -> Iterator[Evidence]:
    """What the backbone said of each block of one response before its first token, as evidence for a circuit.

    The backbone is asked again, once a block: a trace does not keep distributions.

    Args:
        backbone: that decoded it.
        prompt: token ids.
        config: by which, in block diffusion without guidance.
        generation: of that prompt alone, with its trace.
        reads: of the circuit.
    """
    assert generation.trace is not None, "asked for with a trace only"
    backbone = as_backbone(backbone)
    canvas = Canvas.of_prompts([prompt], config.max_new_tokens, backbone.mask_token_id, device_of(backbone))
    predictor = Predictor(backbone, config.replace(cache="none"), canvas)
    begun: set[int] = set()
    for step in generation.trace:
        columns = step.columns[0]
        start = int(columns[0])
        if start not in begun:
            begun.add(start)
            said, only = predictor(step.rows, columns), torch.zeros_like(step.rows)
            yield Evidence.from_logits(
                said.logits,
                canvas.tokens[:, columns],
                backbone.mask_token_id,
                top_k=config.evidence_top_k,
                context=context_of(said, reads, said.hidden, only, columns[:1], canvas.attention_mask),
                tail=False,  # as the loop asks the circuit
            )
        canvas.commit(step.rows, step.columns, step.canvas.gather(-1, step.columns), step.committed)


@torch.no_grad()
def raised_pairs(circuit: Circuit, evidence: Evidence, count: int, least: float = LEAST_JOINT) -> list[RaisedPair]:
    """The pairs of tokens that the circuit raised most, among all whose joint probability is at least `least`.

    A pair is ranked by `p̂ log(p̂ / q)` in nats, what it adds to the divergence of the joint of its two positions from
    independence; `p̂` is its exact posterior probability and `q` the product of the backbone's. Both tokens of a pair
    with `p̂ >= least` have marginals of at least that, so conditioning on every such token, once, finds them all.

    Args:
        circuit: `p_ω`.
        evidence: of one block.
        count: how many at most; fewer where fewer were raised.
        least: above 0.

    Returns:
        The most raised first; none that gains less than `LEAST_GAIN`.
    """
    posterior = circuit.posterior(evidence)
    marginals = posterior.token_marginals()[0]  # (L, V)
    backbone = evidence.dense_weights()[0]
    backbone = backbone / backbone.sum(-1, keepdim=True)
    soft = evidence.soft[0]
    positions, tokens = ((marginals >= least) & soft[:, None]).nonzero(as_tuple=True)  # (R,): first tokens of pairs
    later = (torch.arange(len(soft), device=soft.device) > positions[:, None]) & soft  # (R, L)
    found: list[tuple[float, RaisedPair]] = []
    for part in torch.arange(len(positions), device=soft.device).split(max(LARGEST_TABLE // marginals.numel(), 1)):
        position, token = positions[part], tokens[part]
        given = posterior.rows(torch.zeros_like(part))
        given.condition(torch.arange(len(part), device=soft.device), position, token)
        joint = marginals[position, token, None, None] * given.token_marginals()  # (R, L, V)
        product = backbone[position, token, None, None] * backbone
        gain = (joint * (joint / product).log()).masked_fill(~(later[part][..., None] & (joint >= least)), 0.0)
        found += _largest(gain, joint, product, position, token, count)
    found.sort(key=lambda pair: -pair[0])
    return [pair for _, pair in found[:count]]


def _largest(
    gain: Tensor, joint: Tensor, product: Tensor, positions: Tensor, tokens: Tensor, count: int
) -> list[tuple[float, RaisedPair]]:
    """The largest gains of a `(R, L, V)` table, and their pairs."""
    values, flat = gain.flatten().topk(min(count, gain.numel()))
    rows, seconds, others = torch.unravel_index(flat[values > LEAST_GAIN], gain.shape)
    return [
        (
            float(gain[row, second, other]),
            RaisedPair(
                positions=(int(positions[row]), second),
                tokens=(int(tokens[row]), other),
                factorized=float(product[row, second, other]),
                coupled=float(joint[row, second, other]),
            ),
        )
        for row, second, other in zip(rows.tolist(), seconds.tolist(), others.tolist(), strict=True)
    ]
