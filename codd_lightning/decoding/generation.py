"""The one denoising loop."""

import operator
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor

from codd_lightning.backbones import AnyBackbone, as_backbone, device_of, encode_prompt
from codd_lightning.circuits import Circuit, Evidence
from codd_lightning.decoding.canvas import Canvas
from codd_lightning.decoding.config import DecodingConfig
from codd_lightning.decoding.proposals import PROPOSALS, Answer, Proposal, Question
from codd_lightning.decoding.remasking import REMASKING
from codd_lightning.decoding.sampling import RowDraws
from codd_lightning.decoding.schedule import quotas, spread
from codd_lightning.errors import UserError
from codd_lightning.seeding import spawn


@dataclass(frozen=True)
class TraceStep:
    """One denoising step of the rows that took part in it.

    Attributes:
        rows: `(M,)` row numbers.
        columns: `(L,)` columns of the active block.
        canvas: `(M, T)` token ids after the step.
        committed: `(M, L)` bool, what the step committed.
        confidence: `(M, L)`, of the committed tokens.
        coupled: `(M,)` bool, rows on which the circuit acted.
    """

    rows: Tensor
    columns: Tensor
    canvas: Tensor
    committed: Tensor
    confidence: Tensor
    coupled: Tensor


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
    """Decodes responses by block diffusion (paper Algorithm 1), with or without a circuit.

    Args:
        backbone: of `load_backbone`, or any module with its attributes and `forward`.
        prompts: texts, or lists of token ids; any lengths.
        config: how to decode.
        circuit: what couples the tokens of a block; None for factorized decoding.
        generator: one source of all draws, or one per prompt, so that a row's text does not depend on
            its batch.

    Raises:
        UserError: the proposal needs a circuit that is not there, circuit and backbone do not fit, or
            a prompt is not text and token ids of this backbone's vocabulary.
    """
    backbone = as_backbone(backbone)
    proposal = choose_proposal(config, circuit)
    if circuit is not None:
        require_fit(backbone, circuit, config.block_length)
    canvas = Canvas(_token_ids(backbone, prompts), config.max_new_tokens, backbone.mask_token_id, device_of(backbone))
    generators = list(generator) if isinstance(generator, Sequence) else spawn(generator, len(prompts))
    if len(generators) != len(prompts):
        raise UserError(f"generate was given {len(generators)} generators for {len(prompts)} prompts")
    loop = _Denoising(backbone, circuit if proposal.coupled else None, config, proposal, canvas, generators)
    if len(prompts):
        loop.run()
    eos = loop.eos_token_ids
    responses = canvas.responses(eos, config.stop_at_eos)
    return Generation(
        sequences=[prompt + response for prompt, response in zip(canvas.prompts, responses, strict=True)],
        texts=_texts(backbone, responses),
        ended=[bool(response) and response[-1] in backbone.eos_token_ids for response in responses],
        response_tokens=[len(response) for response in responses],
        nfe=loop.nfe.tolist(),
        circuit_calls=loop.circuit_calls.tolist(),
        trace=loop.trace,
    )


def choose_proposal(config: DecodingConfig, circuit: Circuit | None) -> Proposal:
    """The proposal that a config names, or the default: any-order with a circuit, factorized without.

    Raises:
        UserError: it needs a circuit and there is none.
    """
    name = config.proposal or ("factorized" if circuit is None else "any_order")
    proposal = PROPOSALS[name]
    if proposal.coupled and circuit is None:
        raise UserError(f"decoding.proposal={name} needs a circuit; without one only factorized decodes")
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
    if block_length > circuit.block_length:
        raise UserError(
            f"the circuit was trained on {circuit.block_length}-token blocks; "
            f"decoding.block_length={block_length} does not fit it"
        )


class _Denoising:
    """State of one call of `generate`."""

    def __init__(
        self,
        backbone: AnyBackbone,
        circuit: Circuit | None,
        config: DecodingConfig,
        proposal: Proposal,
        canvas: Canvas,
        generators: Sequence[torch.Generator],
    ) -> None:
        device = canvas.tokens.device
        self.backbone, self.circuit, self.config, self.proposal, self.canvas = (
            backbone,
            circuit,
            config,
            proposal,
            canvas,
        )
        self.draws = RowDraws(generators, device)
        ends = [token for token in backbone.eos_token_ids if 0 <= token < backbone.vocab_size]
        self.eos_token_ids = torch.tensor(ends, dtype=torch.long, device=device)
        self.nfe = torch.zeros(len(canvas.prompts), dtype=torch.long, device=device)
        self.circuit_calls = torch.zeros_like(self.nfe)
        self.trace: list[TraceStep] | None = [] if config.trace else None

    def run(self) -> None:
        """Denoises the blocks from left to right."""
        config = self.config
        for block, steps in enumerate(spread(config.steps, config.blocks)):
            start = block * config.block_length
            columns = self.canvas.columns(start, min(config.block_length, config.max_new_tokens - start))
            step_quotas = quotas(self.canvas.masked[:, columns].sum(-1), steps)
            for step in range(steps):
                rows = self._active_rows(columns)
                if not len(rows):
                    break
                self._step(rows, columns, step_quotas[rows, step])

    def _active_rows(self, columns: Tensor) -> Tensor:
        active = self.canvas.masked[:, columns].any(-1)
        if self.config.stop_at_eos:
            active &= ~self.canvas.finished(self.eos_token_ids)
        return active.nonzero().squeeze(-1)

    def _step(self, rows: Tensor, columns: Tensor, quota: Tensor) -> None:
        """One pass of the backbone over some rows, and what the proposals commit on its word."""
        logits = self._predict(rows, columns)  # (M, L, V)
        masked = self.canvas.masked[rows[:, None], columns]
        coupled = torch.zeros(len(rows), dtype=torch.bool, device=rows.device)
        if self.circuit is not None:
            coupled = masked.sum(-1) <= self.config.gamma * masked.shape[1]
        for here, proposal in ((coupled, self.proposal), (~coupled, PROPOSALS["factorized"])):
            part = here.nonzero().squeeze(-1)
            if len(part):
                acts = here is coupled and self.circuit is not None
                answer = self._ask(proposal, rows[part], columns, logits[part], masked[part], quota[part], acts)
                self.canvas.commit(rows[part], columns, answer.tokens, answer.committed)
                self.circuit_calls[rows[part]] += answer.circuit_calls
                self._record(rows[part], columns, answer, coupled[part])

    def _predict(self, rows: Tensor, columns: Tensor) -> Tensor:
        tokens, attention_mask = self.canvas.tokens[rows], self.canvas.attention_mask[rows]
        logits = self.backbone.predict(tokens, columns, attention_mask=attention_mask).logits.float()
        self.nfe[rows] += 1
        if self.config.cfg_scale > 0.0:
            unprompted = tokens.clone()
            unprompted[:, : self.canvas.prompt_length] = self.backbone.mask_token_id
            free = self.backbone.predict(unprompted, columns, attention_mask=attention_mask).logits.float()
            self.nfe[rows] += 1
            logits = free + (self.config.cfg_scale + 1.0) * (logits - free)
        if 0 <= self.backbone.mask_token_id < logits.shape[-1]:
            logits[..., self.backbone.mask_token_id] = -torch.inf
        return logits

    def _ask(
        self,
        proposal: Proposal,
        rows: Tensor,
        columns: Tensor,
        logits: Tensor,
        masked: Tensor,
        quota: Tensor,
        acts: bool,
    ) -> Answer:
        config = self.config
        posterior = None
        if acts and self.circuit is not None:
            tokens = self.canvas.tokens[rows[:, None], columns]
            evidence = Evidence.from_logits(logits, tokens, self.backbone.mask_token_id, top_k=config.evidence_top_k)
            posterior = self.circuit.posterior(evidence)
        question = Question(
            logits=logits,
            masked=masked,
            quota=torch.minimum(quota, masked.sum(-1)),
            ranking=REMASKING[config.remasking],
            draws=self.draws.rows(rows),
            eos_token_ids=self.eos_token_ids,
            eos_last=config.eos == "last",
            temperature=config.temperature,
            top_p=config.top_p,
            top_k=config.top_k,
            tau=config.tau,
            posterior=posterior,
        )
        return proposal.answer(question)

    def _record(self, rows: Tensor, columns: Tensor, answer: Answer, coupled: Tensor) -> None:
        if self.trace is not None:
            canvas = self.canvas.tokens[rows].clone()
            self.trace.append(TraceStep(rows, columns, canvas, answer.committed, answer.confidence, coupled))


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
