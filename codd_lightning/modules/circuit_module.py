"""Training of a circuit on a frozen backbone."""

import dataclasses
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor

from codd_lightning.backbones import AnyBackbone, as_backbone
from codd_lightning.circuits import (
    HMM,
    Circuit,
    Evidence,
    SamplerHead,
    Traces,
    describe,
    from_description,
    split_forgetful_states,
)
from codd_lightning.data import Batch, Blocks
from codd_lightning.decoding import require_fit
from codd_lightning.diffusion import WEIGHTS
from codd_lightning.errors import UserError
from codd_lightning.metrics import LikelihoodByMaskRatio
from codd_lightning.modules.blocks import clean_blocks, conditional_log_likelihood, response_blocks, scored_blocks
from codd_lightning.modules.counting import expected_counts
from codd_lightning.modules.cycles import CyclicAdamW, Phase
from codd_lightning.modules.noise import Noise
from codd_lightning.modules.optimizers import CountingRecipe, OptimizerRecipe, is_log_distribution
from codd_lightning.seeding import sample_generator
from codd_lightning.strategies import set_whole_state, whole_state

log = logging.getLogger("codd_lightning")


TRACED_BLOCKS = 2048  # that states are split by
HIDDEN = 0.9  # of their tokens, at least, are masked


class CircuitModule(L.LightningModule):
    """Trains a circuit: on the conditional log-likelihood of the coupled distribution (paper Eq. 7), or on its own.

    The backbone is frozen: no gradients, evaluation mode, and its weights stay out of checkpoints.

    Args:
        backbone: gives the evidence; None where batches come as `Blocks`, with theirs (from an evidence cache).
        circuit: what is trained.
        noise: how batches are masked.
        weight: "inverse_t", "per_token" or "flat".
        optimizer: with its schedule.
        evidence_top_k: tokens per position that evidence keeps; None for all.
        conditional: False trains `log p_ω` on clean responses, each block alike, and asks the backbone in
            validation only.
    """

    monitor = "validation/nll_coupled"  # least in the checkpoint that is kept as the best

    def __init__(
        self,
        backbone: Any,
        circuit: Circuit,
        noise: Noise,
        weight: str,
        optimizer: OptimizerRecipe | CountingRecipe,
        evidence_top_k: int | None = None,
        conditional: bool = True,
    ) -> None:
        super().__init__()
        if weight not in WEIGHTS:
            raise UserError(f"objective.weight={weight} is not one of {', '.join(WEIGHTS)}")
        if not conditional and isinstance(circuit, SamplerHead):
            raise UserError(
                "objective=likelihood trains log p_ω, and circuit=sampler_head has none apart from a backbone: "
                "use objective=coupled_likelihood"
            )
        self.backbone: AnyBackbone | None = None
        if backbone is not None:
            self.backbone = as_backbone(backbone).requires_grad_(False).eval()
            require_fit(self.backbone, circuit, noise.block_length)
        self.circuit = circuit
        self.noise = noise
        self.weight = WEIGHTS[weight]
        self.evidence_top_k = evidence_top_k
        self.conditional = conditional
        self._optimizer = optimizer
        self.automatic_optimization = not isinstance(optimizer, CountingRecipe)  # EM has no gradients to follow
        self.validation_likelihood = LikelihoodByMaskRatio()

    def train(self, mode: bool = True) -> "CircuitModule":
        super().train(mode)
        if self.backbone is not None:
            self.backbone.eval()
        return self

    def on_train_batch_start(self, batch: Batch | Blocks, batch_idx: int) -> None:
        recipe, core = self._optimizer, self.circuit.core
        if not (isinstance(recipe, CyclicAdamW) and recipe.split_states and isinstance(core, HMM) and core.homogeneous):
            return
        cycle, within, _ = self._cycle(recipe)
        if cycle and not within:
            self._split_states(self._phase_of(recipe, cycle - 1))

    @torch.no_grad()
    def _split_states(self, learnt: Phase) -> None:
        """Lets states remember what they forget of the epoch's first blocks; found by one rank for all."""
        text = self.hidden_text(learnt)
        state = whole_state(self, "circuit.")
        split = 0
        if self.trainer.is_global_zero and text:
            whole = from_description(describe(self.circuit), Path("here"))
            whole.load_state_dict(state)
            whole.to(self.device)
            generator = sample_generator(self.noise.seed, 0, self.global_step, "splitting")
            core: Any = whole.core
            split = split_forgetful_states(core, Traces.of(whole, text, generator))
            state = {name: weight.detach().cpu() for name, weight in whole.named_parameters()}
            if split:
                log.info("%d of %d states became copies that remember what these forgot", split, core.num_states)
        split, state = self.trainer.strategy.broadcast((split, state))
        set_whole_state(self, "circuit.", state)
        self.log("train/split_states", float(split), batch_size=1)

    def hidden_text(self, learnt: Phase) -> list[tuple[Tensor, Evidence]]:
        """Blocks of which hardly a token is known: what is known need not be remembered. The same on every rank."""
        text: list[tuple[Tensor, Evidence]] = []
        loader: Any = self.trainer.train_dataloader
        for batch in loader.opening():
            blocks = self._traceable_blocks(batch.to(self.device), learnt)
            hidden = (blocks.masked.float().mean(-1) >= HIDDEN).nonzero().flatten()
            if len(hidden):
                text.append((blocks.tokens[hidden], blocks.evidence.rows(hidden)))
            if sum(len(tokens) for tokens, _ in text) >= TRACED_BLOCKS:
                break
        if not text:
            log.warning("no block has %.0f %% of its tokens masked: optimizer.split_states has no effect", 100 * HIDDEN)
        return text

    def _traceable_blocks(self, batch: Batch | Blocks, learnt: Phase) -> Blocks:
        """A batch's blocks with the evidence of a phase; the backbone is not asked where none is hidden."""
        if not self.conditional:
            assert isinstance(batch, Batch), "clean text is never cached"
            blocks = clean_blocks(batch, self.noise.block_length, self.circuit.vocab_size)
            count, length = blocks.tokens.shape
            nothing = Evidence.nothing_known(count, length, self.circuit.vocab_size, device=self.device)
            return dataclasses.replace(blocks, evidence=nothing)
        if isinstance(batch, Batch):
            assert self.backbone is not None, "without a backbone, batches come with their evidence"
            masked = self.noise(batch, self.backbone.mask_token_id, self.current_epoch, "training noise").masked
            share = response_blocks(batch, masked, self.noise.block_length).float().mean(-1).view(len(batch), -1)
            asked = (share >= HIDDEN).any(1)
            asked[0] = True  # a backbone takes no batch of nothing
            batch = batch.rows(asked.nonzero().flatten())
        return _as_learnt(self._blocks(batch, self.current_epoch, "training noise"), learnt)

    def _cycle(self, optimizer: CyclicAdamW) -> tuple[int, int, int]:
        return optimizer.cycle_of(self.global_step, int(self.trainer.estimated_stepping_batches))

    @property
    def _heads(self) -> list[Tensor]:
        """The circuit's parameters that read the context."""
        return [p for name, p in self.circuit.named_parameters() if not is_log_distribution(name)]

    @property
    def _phase(self) -> Phase:
        if not isinstance(self._optimizer, CyclicAdamW):
            return Phase.COUPLED
        return self._phase_of(self._optimizer, self._cycle(self._optimizer)[0])

    def _phase_of(self, optimizer: CyclicAdamW, cycle: int) -> Phase:
        phase = optimizer.phase_of(cycle)
        waits = any(is_log_distribution(name) for name, _ in self.circuit.named_parameters())
        return Phase.COUPLED if phase == Phase.STATIC and not waits else phase

    def training_step(self, batch: Batch | Blocks, batch_idx: int) -> Tensor | None:
        if self.conditional:
            blocks = self._blocks(batch, self.current_epoch, "training noise")
            blocks = _as_learnt(blocks, self._phase)
            weights = self.weight(blocks.noise)  # (M,)
            if self._phase == Phase.ALONE:
                weights = torch.full_like(weights, 1 / self.noise.block_length)
        else:
            assert isinstance(batch, Batch), "clean text is never cached"
            blocks = clean_blocks(batch, self.noise.block_length, self.circuit.vocab_size)
            weights = torch.ones(len(blocks.tokens), device=self.device)
        with torch.set_grad_enabled(self.automatic_optimization):
            if self.conditional:
                generator = sample_generator(self.noise.seed, self.global_rank, self.global_step, "estimate")
                scores = self.circuit.log_conditional_estimate(blocks.tokens, blocks.evidence, generator)  # (M,)
            else:
                scores = self.circuit.log_prob(blocks.tokens)  # (M,)
        loss = -(weights * scores).sum() / blocks.examples
        if self._phase == Phase.STATIC or not self.conditional:  # gradients of 0, which ranks that exchange them need
            loss = loss + 0.0 * sum(p.sum() for p in self._heads)
        self.log("train/loss", loss.detach(), prog_bar=True, batch_size=blocks.examples)
        if masked := int(blocks.masked.sum()):
            tag = "train/cll_per_masked_token" if self.conditional else "train/log_likelihood_per_token"
            self.log(tag, scores.detach().sum() / masked, batch_size=masked)
        if self.automatic_optimization:
            return loss if loss.requires_grad else None
        self._step_by_counts(blocks, weights)
        return None

    def _step_by_counts(self, blocks: Blocks, weights: Tensor) -> None:
        """One step of EM, the same on every rank."""
        counts, against = expected_counts(self.circuit, blocks, weights, self.conditional)
        counts, samples = self._sum_over_ranks(counts), self._sum_over_ranks({"": weights.sum()})
        against = None if against is None else self._sum_over_ranks(against)
        wrapped: Any = self.optimizers()
        wrapped.optimizer.accumulate(counts, float(samples[""]), against)
        wrapped.step()
        schedule: Any = self.lr_schedulers()
        schedule.step()

    def _sum_over_ranks(self, values: dict[str, Tensor]) -> dict[str, Tensor]:
        if self.trainer.world_size == 1:
            return values
        return {name: self.trainer.strategy.reduce(value, reduce_op="sum") for name, value in values.items()}

    def validation_step(self, batch: Batch | Blocks, batch_idx: int) -> None:
        blocks = self._blocks(batch, 0, "validation noise")
        counted = blocks.counted
        self.validation_likelihood.update(
            factorized=blocks.evidence.log_weight(blocks.tokens, counted),
            coupled=conditional_log_likelihood(self.circuit, blocks, counted),
            tokens=counted.sum(-1),
            mask_ratio=blocks.masked.float().mean(-1),
        )

    def on_validation_epoch_end(self) -> None:
        for tag, value in self.validation_likelihood.compute().items():
            self.log(f"validation/{tag}", value)
        self.validation_likelihood.reset()

    def configure_optimizers(self) -> Any:
        heads = sum(p.numel() for p in self._heads)
        if heads and (isinstance(self._optimizer, CountingRecipe) or not self.conditional):
            what = "this objective" if isinstance(self._optimizer, OptimizerRecipe) else "this optimizer"
            log.warning("%s trains tables alone: %d parameters that read the context stay as they are", what, heads)
        if isinstance(self._optimizer, CyclicAdamW):
            if self._optimizer.alone_cycles and not self.conditional:
                log.warning("optimizer.alone_cycles has no effect with objective=likelihood, which is alone throughout")
            if self._optimizer.split_states and isinstance(core := self.circuit.core, HMM) and not core.homogeneous:
                log.warning("optimizer.split_states has no effect on states that differ by position")
        steps = int(self.trainer.estimated_stepping_batches)
        if isinstance(self._optimizer, CyclicAdamW) and steps < self._optimizer.cycles:
            log.warning("optimizer.cycles=%d: a run of %d steps has only the first", self._optimizer.cycles, steps)
        return self.optimizer_for(steps)

    def optimizer_for(self, total_steps: int) -> dict[str, Any] | None:
        """The optimizer and its schedule over some updates; None for a circuit without parameters."""
        trainable = [(name, p) for name, p in self.circuit.named_parameters() if p.requires_grad]
        if not trainable:
            return None
        if isinstance(self._optimizer, CountingRecipe):
            return self._optimizer(self.circuit, total_steps)
        return self._optimizer(trainable, total_steps)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        learnt = {name for name, parameter in self.named_parameters() if parameter.requires_grad}
        weights = checkpoint["state_dict"]
        checkpoint["state_dict"] = {k: v for k, v in weights.items() if not k.startswith("backbone.") or k in learnt}
        checkpoint["circuit"] = describe(self.circuit)  # so that it can be read from the checkpoint alone

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """All but the backbone's frozen weights, which no checkpoint has.

        Raises:
            RuntimeError: strictly, something else is missing or too much.
        """
        found = super().load_state_dict(state_dict, strict=False, assign=assign)
        lacking = [name for name in found.missing_keys if not name.startswith("backbone.")]
        if strict and (lacking or found.unexpected_keys):
            raise RuntimeError(f"missing: {', '.join(lacking)}; unexpected: {', '.join(found.unexpected_keys)}")
        return found

    def _blocks(self, batch: Batch | Blocks, epoch: int, purpose: str) -> Blocks:
        if isinstance(batch, Blocks):
            return batch
        assert self.backbone is not None, "without a backbone, batches come with their evidence"
        noised = self.noise(batch, self.backbone.mask_token_id, epoch, purpose)
        return scored_blocks(
            self.backbone, batch, noised, self.noise.block_length, self.evidence_top_k, self.circuit.reads
        )


def _as_learnt(blocks: Blocks, phase: Phase) -> Blocks:
    """Blocks with the evidence that a phase learns from."""
    evidence = blocks.evidence
    if phase == Phase.STATIC:
        evidence = dataclasses.replace(evidence, context=None)
    elif phase == Phase.ALONE:
        evidence = evidence.alone()
    return dataclasses.replace(blocks, evidence=evidence)
