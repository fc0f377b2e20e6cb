"""The one denoising loop: predict, choose, commit, until nothing is masked."""

import dataclasses
import itertools
import warnings
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from codd_lightning.backbones import AnyBackbone, Prediction
from codd_lightning.circuits import Circuit, Evidence, Posterior
from codd_lightning.decoding.activation import within_threshold
from codd_lightning.decoding.asked import Asked
from codd_lightning.decoding.canvas import Canvas
from codd_lightning.decoding.commit import INDEPENDENCE, how_many
from codd_lightning.decoding.config import LEAST_TEMPERATURE, DecodingConfig
from codd_lightning.decoding.context import context_of
from codd_lightning.decoding.independence import independent_positions
from codd_lightning.decoding.keeping import choose_targets
from codd_lightning.decoding.predictor import Predictor
from codd_lightning.decoding.proposals import PROPOSALS
from codd_lightning.decoding.question import Proposal, Question, leftmost
from codd_lightning.decoding.remasking import REMASKING
from codd_lightning.decoding.sampling import RowDraws
from codd_lightning.decoding.schedule import quota_of, spread
from codd_lightning.decoding.trace import TraceStep
from codd_lightning.decoding.windows import cover


class Denoising:
    """State of one call of `generate` or `infill`.

    Attributes:
        nfe: `(B,)` long, backbone forward passes of each row.
        circuit_calls: `(B,)` long, conditional distributions asked of the circuit.
        trace: every step; None unless it was asked for.
    """

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
        self._circuit, self._config, self._proposal, self._canvas = circuit, config, proposal, canvas
        self._mask_token_id = backbone.mask_token_id
        self._has_zeros = circuit is not None and circuit.has_zeros
        self._predictor = Predictor(backbone, config, canvas)
        self._said: tuple[Tensor, Prediction]  # in this step: rows, and the prediction for them
        self._draws = RowDraws(generators, device)
        ends = [token for token in backbone.eos_token_ids if 0 <= token < backbone.vocab_size]
        self.eos_token_ids = torch.tensor(ends, dtype=torch.long, device=device)
        self.nfe = torch.zeros(len(canvas.tokens), dtype=torch.long, device=device)
        self.circuit_calls = torch.zeros_like(self.nfe)
        self._taken = torch.zeros_like(self.nfe)  # steps of each row
        self.trace: list[TraceStep] | None = [] if config.trace else None

    def run(self) -> None:
        """Denoises one part of the canvas after another."""
        for columns, steps in self._parts():
            self._predictor.forget()
            initial = self._canvas.masked[:, columns].sum(-1)
            for step in itertools.count():
                if step == steps and self._config.commit == "quota":
                    break
                rows = self._active_rows(columns)
                if not len(rows):
                    break
                self._step(rows, columns, initial, step, steps)

    def _parts(self) -> Iterator[tuple[Tensor, int]]:
        """Columns that are denoised together, and their steps: blocks, or everything at once."""
        config, width = self._config, self._canvas.width
        if config.paradigm == "full":
            yield self._canvas.columns(0, width), config.steps
            return
        blocks = max(-(-width // config.block_length), 1)
        for block, steps in enumerate(spread(config.steps, blocks)):
            start = block * config.block_length
            yield self._canvas.columns(start, min(config.block_length, width - start)), steps

    def _active_rows(self, columns: Tensor) -> Tensor:
        active = self._canvas.masked[:, columns].any(-1)
        if self._config.stop_at_eos:
            active &= ~self._canvas.finished(self.eos_token_ids)
        return active.nonzero().squeeze(-1)

    def _step(self, rows: Tensor, columns: Tensor, initial: Tensor, step: int, steps: int) -> None:
        """One pass of the backbone over some rows, and what the proposals commit on its word."""
        prediction = self._predictor(rows, columns)
        self.nfe[rows] += self._predictor.passes
        opened = self._canvas.masked[rows[:, None], columns]
        everything = Asked(
            rows=rows,
            columns=columns.expand_as(opened),
            inside=self._canvas.attention_mask[rows[:, None], columns],
            logits=prediction.logits,
            targets=opened,
            opened=opened,
            behind=torch.zeros_like(rows, dtype=torch.bool),
            hidden=prediction.hidden,
        )
        self._said = rows, prediction
        self._taken[rows] += 1
        if self._config.commit == INDEPENDENCE:
            self._commit_independent(everything)
            return
        quota = None  # where a rule decides
        if self._config.commit == "quota":
            quota = quota_of(self._config.schedule, initial[rows], opened.sum(-1), step, steps)
        if self._config.paradigm == "block" or self._circuit is None:
            self._commit(everything, quota)
            return
        if quota is None:
            quota = self._by_rule(prediction.logits.softmax(-1), opened)
        last = self._config.commit == "quota" and step == steps - 1
        targets = opened if last else choose_targets(self._question(everything, quota, None))
        self._commit_targets(everything, targets)
        # With eos="last" a window leaves targets that would become an EOS before it is due. Where that was all, or
        # there is no later step, all that is open is asked for again: the leftmost is due by then.
        while True:
            masked = self._canvas.masked[rows[:, None], columns]
            left = masked
            if self._config.stop_at_eos:
                left = masked & ~self._canvas.finished(self.eos_token_ids)[rows, None]
            again = left.any(-1) if last else left.any(-1) & (left == opened).all(-1)
            if not bool(again.any()):
                return
            everything = dataclasses.replace(everything, opened=left)
            self._commit_targets(everything, left & again[:, None])
            if torch.equal(masked, self._canvas.masked[rows[:, None], columns]):
                return  # nothing more can be said here

    def _commit_targets(self, everything: Asked, targets: Tensor) -> None:
        """Commits `(R, P)` targets of whole responses, by the windows that cover them."""
        windows = everything.windows(cover(targets, self._config.block_length), targets)
        if len(windows.rows):
            self._commit(windows, windows.targets.sum(-1))

    def _commit_independent(self, everything: Asked) -> None:
        """Commits positions that do not influence each other; the leftmost where a proposal commits none of them."""
        for targets in (self._independent(everything), leftmost(everything.opened)):
            now = self._canvas.masked[everything.rows[:, None], everything.columns]
            left = (now == everything.opened).all(-1).nonzero().squeeze(-1)
            if not len(left):
                return
            some = dataclasses.replace(everything, targets=targets).part(left)
            self._commit(some, some.targets.sum(-1))

    def _independent(self, asked: Asked) -> Tensor:
        """`(R, P)` bool: the masked positions that do not influence each other; an EOS that has to wait is none."""
        bound = self._config.commit_bound
        assert bound is not None, "a rule has its bound"
        candidates = asked.opened
        if self._config.eos == "last":
            waits = torch.isin(asked.logits.argmax(-1), self.eos_token_ids) & ~leftmost(asked.opened)
            candidates = torch.where((candidates & ~waits).any(-1, keepdim=True), candidates & ~waits, candidates)
        columns = asked.columns[0]
        targets, passes = independent_positions(
            asked.logits,
            candidates,
            self._canvas.tokens[asked.rows[:, None], columns],
            lambda some, revealed: self._predictor(asked.rows[some], columns, revealed).logits,
            bound,
        )
        self.nfe[asked.rows] += passes * self._predictor.passes
        return targets

    def _by_rule(self, probabilities: Tensor, masked: Tensor) -> Tensor:
        """What the commit rule commits; an EOS that the EOS rule keeps out of the quota is not counted either."""
        bound = self._config.commit_bound
        assert bound is not None, "a rule has its bound"
        counted = masked
        if self._config.eos == "last":
            counted = masked & ~torch.isin(probabilities.argmax(-1), self.eos_token_ids)
        scores = REMASKING[self._config.remasking].score(probabilities, None, torch.zeros_like(probabilities[..., 0]))
        found = how_many(self._config.commit, probabilities, scores, counted, bound)
        return torch.maximum(found, masked.any(-1).long())

    def _commit(self, asked: Asked, quota: Tensor | None) -> None:
        """Asks a proposal about each window, the coupled one where the circuit acts, and writes what it answers.

        A quota of None is left to the commit rule.
        """
        acts = self._acts(asked)
        for coupled in (True, False):
            part = (acts == coupled).nonzero().squeeze(-1)
            if not len(part):
                continue
            some = asked if len(part) == len(acts) else asked.part(part)
            proposal = self._proposal if coupled else PROPOSALS["factorized"]
            posterior = self._posterior(some, proposal) if coupled else None
            least_joint = None
            if quota is not None:
                wanted = quota[part]
            elif posterior is not None and self._goes_by_joint:
                wanted, least_joint = some.opened.sum(-1), self._config.commit_bound
            elif posterior is not None and self._config.commit_reads == "circuit":
                wanted = self._by_rule(posterior.token_marginals(), some.opened)
                self.circuit_calls[some.rows] += 1
            else:
                wanted = self._by_rule(some.logits.softmax(-1), some.opened)
            answer = proposal.answer(self._question(some, wanted, posterior, least_joint))
            committed = answer.committed & some.inside
            self._canvas.commit(some.rows, some.columns, answer.tokens, committed)
            self.circuit_calls.index_add_(0, some.rows, answer.circuit_calls)
            if self.trace is not None:
                step = TraceStep(
                    rows=some.rows,
                    number=self._taken[some.rows],
                    columns=some.columns,
                    canvas=self._canvas.tokens[some.rows].clone(),
                    committed=committed,
                    confidence=answer.confidence,
                    expected=some.logits.argmax(-1),
                    coupled=acts[part],
                )
                self.trace.append(step)

    @property
    def _goes_by_joint(self) -> bool:
        """Whether the proposal itself says when the joint probability of its tokens is too small to go on."""
        config = self._config
        return config.commit == "joint" and config.commit_reads == "circuit" and self._proposal.knows_joint

    def _acts(self, asked: Asked) -> Tensor:
        """`(M,)` bool: whether the circuit acts on each window."""
        config = self._config
        if self._circuit is None:
            return torch.zeros_like(asked.behind)
        masked, size = asked.opened.sum(-1), asked.inside.sum(-1)
        if config.gamma_share == "response":
            masked = self._canvas.masked[asked.rows].sum(-1)
            size = self._canvas.attention_mask[asked.rows, self._canvas.prompt_length :].sum(-1)
        acts = within_threshold(config, masked, size)
        if not self._has_zeros or not bool(acts.any()):
            return acts
        part = acts.nonzero().squeeze(-1)
        possible = self._circuit.is_possible(self._evidence(asked.part(part), self._proposal))
        if not bool(possible.all()):
            warnings.warn(
                "the circuit rules out what is known and likely in some windows: there the backbone decides alone",
                stacklevel=2,
            )
        acts[part] = possible
        return acts

    def _posterior(self, asked: Asked, proposal: Proposal) -> Posterior:
        assert self._circuit is not None, "asked only where the circuit acts"
        return self._circuit.posterior(self._evidence(asked, proposal))

    def _evidence(self, asked: Asked, proposal: Proposal) -> Evidence:
        assert self._circuit is not None, "asked only where the circuit acts"
        rows, prediction = self._said
        context = context_of(
            prediction,
            self._circuit.reads,
            asked.hidden,
            torch.searchsorted(rows, asked.rows),
            asked.columns[:, 0],
            self._canvas.attention_mask[rows],
        )
        return Evidence.from_logits(
            asked.logits,
            self._canvas.tokens[asked.rows[:, None], asked.columns],
            self._mask_token_id,
            temperature=max(self._config.tau, LEAST_TEMPERATURE) if proposal.tempers_evidence else 1.0,
            top_k=self._config.evidence_top_k,
            absent=None if bool(asked.inside.all()) else ~asked.inside,
            context=context,
            tail=False,  # what is left out is not proposed, so that only what is kept costs anything
        )

    def _question(
        self, asked: Asked, quota: Tensor, posterior: Posterior | None, least_joint: float | None = None
    ) -> Question:
        config = self._config
        return Question(
            logits=asked.logits,
            masked=asked.targets,
            opened=asked.opened,
            behind=asked.behind,
            quota=torch.minimum(quota, asked.targets.sum(-1)),
            ranking=REMASKING[config.remasking],
            room=asked.inside.sum(-1),
            draws=self._draws.rows(asked.rows),
            eos_token_ids=self.eos_token_ids,
            eos_last=config.eos == "last",
            temperature=config.temperature,
            top_p=config.top_p,
            top_k=config.top_k,
            tau=config.tau,
            posterior=posterior,
            least_joint=least_joint,
        )
