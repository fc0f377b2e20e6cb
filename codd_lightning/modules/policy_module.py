"""Reinforcement learning of a backbone by the grades of its own responses: diffu-GRPO."""

import copy
from dataclasses import dataclass
from typing import Any

import lightning as L
import torch
from torch import Tensor

from codd_lightning.backbones import Backbone
from codd_lightning.data import Batch, TaskDataModule
from codd_lightning.decoding import Canvas, DecodingConfig, generate
from codd_lightning.errors import UserError
from codd_lightning.modules.backbone_module import require_trainable
from codd_lightning.modules.optimizers import OptimizerRecipe
from codd_lightning.seeding import sample_generator


@dataclass(frozen=True)
class Rollouts:
    """Responses that the policy wrote, and what they are worth.

    Attributes:
        canvas: prompts, with every response masked.
        prompt_masks: `(U, B, T)` bool, prompt tokens to be hidden in each of U updates.
        tokens: `(B, R)` long, the responses; anything where not `written`.
        written: `(B, R)` bool, True up to and including EOS.
        rewards: `(B,)` in {0, 1}: the strict grade.
        advantages: `(B,)`.
    """

    canvas: Canvas
    prompt_masks: Tensor
    tokens: Tensor
    written: Tensor
    rewards: Tensor
    advantages: Tensor


class PolicyModule(L.LightningModule):
    """Trains a backbone by diffu-GRPO (Zhao et al., 2025, arXiv 2504.12216, section 3.2), the strict grade as reward.

    For each problem a group of responses is decoded; one's advantage is its reward less the group's mean. The
    log-probability of a response is that of its tokens in one pass over a fully masked response, as if they were
    independent (mean field), with some prompt tokens masked, others in each of several updates (section 3.1).

    Args:
        backbone: all its parameters are trained.
        data: its task grades; its sizes are those of responses.
        optimizer: with its schedule, over updates.
        group_size: G, responses to each problem.
        inner_updates: μ, updates on the same responses.
        prompt_masking: share of prompt tokens masked in an update.
        clip: ε, how far from 1 a ratio of probabilities counts.
        kl: β, weight of the divergence from the backbone as it was.
        steps_per_block: of decoding responses.
        remasking: likewise.
        eos: likewise.
        temperature: likewise, above 0.
        gradient_clip_val: norm of the gradients; None for any.

    Raises:
        UserError: the backbone's weights are not all here or quantised, or an option leaves nothing to learn from.
    """

    monitor = "validation/error_rate"  # least in the checkpoint that is kept as the best

    def __init__(
        self,
        backbone: Backbone,
        data: TaskDataModule,
        optimizer: OptimizerRecipe,
        group_size: int = 8,
        inner_updates: int = 4,
        prompt_masking: float = 0.15,
        clip: float = 0.5,
        kl: float = 0.04,
        steps_per_block: int = 8,
        remasking: str = "low_confidence",
        eos: str = "last",
        temperature: float = 1.0,
        gradient_clip_val: float | None = None,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False  # several updates a batch
        if not isinstance(optimizer, OptimizerRecipe):
            raise UserError("objective=diffu_grpo follows gradients: use optimizer=adamw or muon")
        if getattr(backbone, "stored", None) is not None:
            raise UserError("objective=diffu_grpo decodes with the whole backbone on every rank: use trainer=ddp")
        require_trainable(backbone)
        if steps_per_block > data.block_length:
            raise UserError(
                f"objective.steps_per_block={steps_per_block} is more than a block has tokens "
                f"(data.block_length={data.block_length})"
            )
        if group_size < 2:
            raise UserError(f"objective.group_size={group_size}: a response is set against others: at least 2")
        if temperature <= 0.0:
            raise UserError(f"objective.temperature={temperature}: all responses would be alike: more than 0")
        self.backbone = backbone
        self._reference = (copy.deepcopy(backbone).requires_grad_(False).eval(),)  # in a tuple: not of checkpoints
        self._data, self._optimizer = data, optimizer
        self.group_size, self.inner_updates = group_size, inner_updates
        self.prompt_masking, self.clip, self.kl = prompt_masking, clip, kl
        self._gradient_clip_val = gradient_clip_val
        try:
            self._decoding = DecodingConfig(
                proposal="factorized",
                remasking=remasking,
                eos=eos,
                temperature=temperature,
                steps=steps_per_block * (data.max_response_tokens // data.block_length),
                max_new_tokens=data.max_response_tokens,
                block_length=data.block_length,
            )
        except UserError as error:
            raise UserError(str(error).replace("decoding.", "objective.")) from None

    def train(self, mode: bool = True) -> "PolicyModule":
        super().train(mode)
        self.backbone.eval()  # without dropout, so that ratios begin at 1
        return self

    def on_fit_start(self) -> None:
        self._reference[0].to(self.device)

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        rollouts = self._rollouts(batch, "train", self.current_epoch, self.group_size)
        with torch.no_grad():
            before = [self._log_probs(self.backbone, rollouts, update) for update in range(self.inner_updates)]
            reference = [self._log_probs(self._reference[0], rollouts, update) for update in range(self.inner_updates)]
        optimizer: Any = self.optimizers()
        schedule: Any = self.lr_schedulers()
        for update in range(self._at_most(self.inner_updates, self.global_step)):
            log_probs = self._log_probs(self.backbone, rollouts, update)
            surrogate, divergence = clipped_surrogate(
                log_probs, before[update], reference[update], rollouts.advantages, rollouts.written, self.clip
            )
            loss = self.kl * divergence - surrogate
            optimizer.zero_grad()
            self.manual_backward(loss)
            self.clip_gradients(optimizer, self._gradient_clip_val)
            optimizer.step()
            schedule.step()
        responses = len(rollouts.rewards)
        self.log("train/loss", loss.detach(), batch_size=responses)
        self.log("train/kl", divergence.detach(), batch_size=responses)
        self.log("train/reward", rollouts.rewards.mean(), prog_bar=True, batch_size=responses)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        rewards = self._rollouts(batch, "validation", 0, 1).rewards
        self.log(self.monitor, 1.0 - rewards.mean(), prog_bar=True, batch_size=len(rewards), sync_dist=True)

    def configure_optimizers(self) -> Any:
        return self.optimizer_for(self._at_most(int(self.trainer.estimated_stepping_batches) * self.inner_updates))

    def _at_most(self, updates: int, done: int = 0) -> int:
        """As many updates, or those that are left where the trainer is told after how many to stop."""
        most: int | None = getattr(self.trainer, "updates", None)
        return updates if most is None else min(updates, most - done)

    def optimizer_for(self, total_steps: int) -> dict[str, Any]:
        """The optimizer and its schedule over some updates."""
        return self._optimizer(self.backbone.named_parameters(), total_steps)

    @torch.no_grad()
    def _rollouts(self, batch: Batch, split: str, epoch: int, group_size: int) -> Rollouts:
        """Responses to the problems of a batch, a group to each, side by side; each draws from a source of its own."""
        dataset, numbers = self._data.dataset(split), batch.index.tolist()
        examples, encoded = zip(*(dataset.numbered(number) for number in numbers), strict=True)
        each = [(row, member) for row in range(len(numbers)) for member in range(group_size)]
        prompts = [encoded[row].prompt for row, _ in each]

        def sources(purpose: str) -> list[torch.Generator]:
            seed = self._data.seed
            return [sample_generator(seed, epoch, numbers[row], f"{split} {purpose} {member}") for row, member in each]

        written = generate(self.backbone, prompts, self._decoding, generator=sources("rollout"))
        rewards = []
        for (row, _), text, ended in zip(each, written.texts or [], written.ended, strict=True):
            rewards.append(float(self._data.task.grade(examples[row], text, ended).strict))
        grouped = torch.tensor(rewards, device=self.device).view(-1, group_size)
        canvas = Canvas.of_prompts(
            prompts, self._decoding.max_new_tokens, self.backbone.mask_token_id, batch.input_ids.device
        )
        tokens = torch.zeros(len(prompts), canvas.width, dtype=torch.long)
        for row, (sequence, length) in enumerate(zip(written.sequences, written.response_tokens, strict=True)):
            tokens[row, :length] = torch.tensor(sequence[len(sequence) - length :], dtype=torch.long)
        lengths = torch.tensor(written.response_tokens, device=self.device)
        prompt_masks = torch.zeros(self.inner_updates, *canvas.tokens.shape, dtype=torch.bool)
        for row, source in enumerate(sources("prompt mask")):
            draws = torch.rand(self.inner_updates, len(prompts[row]), generator=source)
            prompt_masks[:, row, canvas.prompt_length - len(prompts[row]) : canvas.prompt_length] = (
                draws < self.prompt_masking
            )
        return Rollouts(
            canvas,
            prompt_masks.to(self.device),
            tokens.to(self.device),
            torch.arange(canvas.width, device=self.device) < lengths[:, None],
            grouped.flatten(),
            (grouped - grouped.mean(1, keepdim=True)).flatten(),
        )

    def _log_probs(self, backbone: Backbone, rollouts: Rollouts, update: int) -> Tensor:
        """`(B, R)`: of each response token, in one pass, as if all were independent."""
        canvas = rollouts.canvas
        hidden = canvas.tokens.masked_fill(rollouts.prompt_masks[update], backbone.mask_token_id)
        prediction = backbone.predict(
            hidden,
            canvas.columns(0, canvas.width),
            attention_mask=canvas.attention_mask,
            response_start=canvas.prompt_length,
        )
        log_probs = prediction.logits.float().log_softmax(-1)
        return log_probs.gather(-1, rollouts.tokens[..., None]).squeeze(-1)


def clipped_surrogate(
    log_probs: Tensor, before: Tensor, reference: Tensor, advantages: Tensor, written: Tensor, clip: float
) -> tuple[Tensor, Tensor]:
    """What GRPO makes large, and the divergence it keeps small: means over responses of means over their tokens.

    The divergence of a token is estimated by `r − log r − 1`, r the reference's probability over the policy's
    (Schulman, 2020).

    Args:
        log_probs: `(B, R)`, of the policy.
        before: `(B, R)`, of the policy that wrote them.
        reference: `(B, R)`, of the policy that training began with.
        advantages: `(B,)`.
        written: `(B, R)` bool, what belongs to a response.
        clip: ε.
    """
    ratio = (log_probs - before).exp()
    gain = torch.minimum(ratio * advantages[:, None], ratio.clamp(1.0 - clip, 1.0 + clip) * advantages[:, None])
    log_ratio = reference - log_probs
    divergence = log_ratio.exp() - log_ratio - 1.0
    lengths = written.sum(1).clamp_min(1)

    def mean(values: Tensor) -> Tensor:
        return (values.masked_fill(~written, 0.0).sum(1) / lengths).mean()

    return mean(gain), mean(divergence)
