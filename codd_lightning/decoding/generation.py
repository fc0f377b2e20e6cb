"""Texts from prompts, and texts with gaps filled: what the library decodes with."""

import operator
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch

from codd_lightning.backbones import AnyBackbone, as_backbone, device_of, encode_prompt
from codd_lightning.circuits import Circuit
from codd_lightning.decoding.canvas import Canvas
from codd_lightning.decoding.config import DecodingConfig
from codd_lightning.decoding.denoising import Denoising
from codd_lightning.decoding.proposals import PROPOSALS
from codd_lightning.decoding.question import Proposal
from codd_lightning.decoding.trace import TraceStep
from codd_lightning.errors import UserError
from codd_lightning.seeding import spawn


@dataclass(frozen=True)
class Generation:
    """What `generate` returns, one entry per prompt.

    Attributes:
        sequences: prompt and response token ids; a finished response ends with its EOS.
        texts: responses as text without EOS; None without a tokenizer.
        ended: whether the response closes with an EOS.
        response_tokens: length of the response, up to and including EOS.
        nfe: backbone forward passes; a guided step counts two.
        circuit_calls: conditional distributions asked of the circuit.
        trace: every step, where it was asked for.
    """

    sequences: list[list[int]]
    texts: list[str] | None
    ended: list[bool]
    response_tokens: list[int]
    nfe: list[int]
    circuit_calls: list[int]
    trace: list[TraceStep] | None = field(default=None, repr=False)


@torch.no_grad()
def generate(
    backbone: Any,
    prompts: Sequence[str] | Sequence[Sequence[int]],
    config: DecodingConfig,
    circuit: Circuit | None = None,
    generator: torch.Generator | Sequence[torch.Generator] | None = None,
) -> Generation:
    """Decodes responses, with or without a circuit.

    Args:
        backbone: of `load_backbone`, or any module with its attributes and `forward`.
        prompts: texts, or lists of token ids; any lengths.
        config: how to decode.
        circuit: what couples the tokens of a block or window; None for factorized decoding.
        generator: one source of all draws, or one per prompt, so that a row's text does not depend on
            its batch.

    Raises:
        UserError: the proposal needs a circuit that is not there, circuit and backbone do not fit, or
            a prompt is not text and token ids of this backbone's vocabulary.
    """
    backbone = as_backbone(backbone)
    token_ids = _token_ids(backbone, prompts)
    canvas = Canvas.of_prompts(token_ids, config.max_new_tokens, backbone.mask_token_id, device_of(backbone))
    loop = _denoised(backbone, canvas, config, circuit, generator)
    eos = loop.eos_token_ids
    responses = canvas.responses(eos, config.stop_at_eos)
    return Generation(
        sequences=[prompt + response for prompt, response in zip(token_ids, responses, strict=True)],
        texts=_texts(backbone, responses),
        ended=[bool(response) and response[-1] in backbone.eos_token_ids for response in responses],
        response_tokens=[len(response) for response in responses],
        nfe=loop.nfe.tolist(),
        circuit_calls=loop.circuit_calls.tolist(),
        trace=loop.trace,
    )


@torch.no_grad()
def infill(
    backbone: Any,
    texts: Sequence[Sequence[int]],
    config: DecodingConfig,
    circuit: Circuit | None = None,
    generator: torch.Generator | Sequence[torch.Generator] | None = None,
) -> Generation:
    """Fills the masks of given texts, wherever they are; nothing is added.

    Blocks and windows are counted from each text's start, and `steps` are those of one block (in full diffusion
    those of the whole text): texts may differ in length. EOS ends nothing here; `max_new_tokens`, `stop_at_eos`
    and guidance, which is of prompts, do not apply.

    Args:
        backbone: as for `generate`.
        texts: lists of token ids, the mask token's where something is missing; any lengths.
        config: how to decode.
        circuit: as for `generate`.
        generator: as for `generate`.

    Returns:
        Filled sequences; `response_tokens` counts the masks that were filled.

    Raises:
        UserError: as `generate`, or an option does not apply to infilling.
    """
    if config.cfg_scale > 0.0:
        raise UserError(f"decoding.cfg_scale={config.cfg_scale} guides by a prompt, and infilling has none")
    if config.eos == "last":
        raise UserError("decoding.eos=last is for responses: infilling adds nothing")
    backbone = as_backbone(backbone)
    if any(isinstance(text, str) for text in texts):
        raise UserError("infill takes lists of token ids, the mask token's where something is missing")
    token_ids = _token_ids(backbone, texts)
    whole = config.block_length if config.paradigm == "block" else 1
    canvas = Canvas.of_gaps(token_ids, backbone.mask_token_id, device_of(backbone), whole)
    blocks = max(-(-canvas.width // config.block_length), 1) if config.paradigm == "block" else 1
    config = config.replace(stop_at_eos=False, max_new_tokens=config.block_length, steps=config.steps * blocks)
    gaps = canvas.masked.sum(-1).tolist()
    loop = _denoised(backbone, canvas, config, circuit, generator)
    filled = [canvas.tokens[row, : len(text)].tolist() for row, text in enumerate(token_ids)]
    return Generation(
        sequences=filled,
        texts=_texts(backbone, filled),
        ended=[bool(text) and text[-1] in backbone.eos_token_ids for text in filled],
        response_tokens=gaps,
        nfe=loop.nfe.tolist(),
        circuit_calls=loop.circuit_calls.tolist(),
        trace=loop.trace,
    )


def _denoised(
    backbone: AnyBackbone,
    canvas: Canvas,
    config: DecodingConfig,
    circuit: Circuit | None,
    generator: torch.Generator | Sequence[torch.Generator] | None,
) -> Denoising:
    """The loop, after it has run."""
    proposal = choose_proposal(config, circuit)
    if circuit is not None:
        require_fit(backbone, circuit, config.block_length)
    count = len(canvas.tokens)
    generators = list(generator) if isinstance(generator, Sequence) else spawn(generator, count)
    if len(generators) != count:
        raise UserError(f"{len(generators)} generators were given for {count} prompts")
    loop = Denoising(backbone, circuit if proposal.coupled else None, config, proposal, canvas, generators)
    if count:
        loop.run()
    return loop


def choose_proposal(config: DecodingConfig, circuit: Circuit | None) -> Proposal:
    """The proposal that a config names, or the default: any-order with a circuit, factorized without.

    Raises:
        UserError: it needs a circuit and there is none, or latent states and the circuit has none.
    """
    name = config.proposal or ("factorized" if circuit is None else "any_order")
    proposal = PROPOSALS[name]
    if proposal.coupled and circuit is None:
        raise UserError(f"decoding.proposal={name} needs a circuit; without one only factorized decodes")
    if config.commit_reads == "circuit" and not proposal.coupled:
        raise UserError("decoding.commit_reads=circuit needs a circuit; without one use decoding.commit_reads=backbone")
    if proposal.reads_latents and circuit is not None and not circuit.has_latents:
        raise UserError(
            f"decoding.proposal={name} reads latent states, and circuit={circuit.structure} has none: "
            "use any_order or marginal"
        )
    return proposal


def require_fit(backbone: AnyBackbone, circuit: Circuit, block_length: int) -> None:
    """Checks that a circuit speaks of this backbone's tokens and of blocks at least this long.

    Raises:
        UserError: it does not.
    """
    if circuit.vocab_size != backbone.vocab_size:
        raise UserError(
            f"the circuit is over {circuit.vocab_size} tokens and the backbone over {backbone.vocab_size}: "
            "it was trained for another backbone"
        )
    size = getattr(circuit, "hidden_size", None)
    if circuit.reads and size != getattr(backbone, "hidden_size", None):
        theirs = getattr(backbone, "hidden_size", None)
        raise UserError(
            f"the circuit reads hidden states of {size} numbers, and the backbone gives "
            f"{'none' if theirs is None else theirs}: it was trained for another backbone"
        )
    if block_length > circuit.block_length:
        raise UserError(
            f"the circuit was trained on {circuit.block_length}-token blocks; "
            f"decoding.block_length={block_length} does not fit it"
        )


def _token_ids(backbone: AnyBackbone, prompts: Sequence[str] | Sequence[Sequence[int]]) -> list[list[int]]:
    if isinstance(prompts, str):
        raise UserError("prompts must be a list of texts, not one text")
    rows = []
    for number, prompt in enumerate(prompts):
        if isinstance(prompt, str):
            if backbone.tokenizer is None:
                raise UserError("the backbone has no tokenizer: give prompts as lists of token ids")
            rows.append(encode_prompt(prompt, backbone.tokenizer))
            continue
        try:
            ids = [operator.index(token) for token in cast("Sequence[int]", prompt)]
        except TypeError:
            raise UserError(f"prompt {number} must be a text or a list of token ids") from None
        outside = [token for token in ids if not 0 <= token < backbone.vocab_size]
        if outside:
            raise UserError(
                f"prompt {number} holds token id {outside[0]}, outside the vocabulary of {backbone.vocab_size}"
            )
        rows.append(ids)
    return rows


def _texts(backbone: AnyBackbone, responses: list[list[int]]) -> list[str] | None:
    if backbone.tokenizer is None:
        return None
    ends = set(backbone.eos_token_ids)
    kept = [[token for token in response if token not in ends] for response in responses]
    return [str(backbone.tokenizer.decode(response)) for response in kept]
