"""Training of a circuit on a frozen backbone."""

from typing import Any

import lightning as L
from torch import Tensor

from codd_lightning.backbones import AnyBackbone, as_backbone
from codd_lightning.circuits import Circuit
from codd_lightning.data import Batch
from codd_lightning.decoding import require_fit
from codd_lightning.diffusion import WEIGHTS, Noised
from codd_lightning.errors import UserError
from codd_lightning.metrics import LikelihoodByMaskRatio
from codd_lightning.modules.blocks import Blocks, conditional_log_likelihood, scored_blocks
from codd_lightning.modules.noise import Noise
from codd_lightning.modules.optimizers import OptimizerRecipe


class CircuitModule(L.LightningModule):
    """Maximises the conditional log-likelihood of the coupled distribution (paper Eq. 7).

    The backbone is frozen: no gradients, evaluation mode, and its weights stay out of checkpoints.

    Args:
        backbone: gives the evidence.
        circuit: what is trained.
        noise: how batches are masked.
        weight: "inverse_t", "per_token" or "flat".
        optimizer: with its schedule.
        evidence_top_k: tokens per position that evidence keeps; None for all.
    """

    def __init__(
        self,
        backbone: Any,
        circuit: Circuit,
        noise: Noise,
        weight: str,
        optimizer: OptimizerRecipe,
        evidence_top_k: int | None = None,
    ) -> None:
        super().__init__()
        if weight not in WEIGHTS:
            raise UserError(f"objective.weight={weight} is not one of {', '.join(WEIGHTS)}")
        self.backbone: AnyBackbone = as_backbone(backbone).requires_grad_(False).eval()
        require_fit(self.backbone, circuit, noise.block_length)
        self.circuit = circuit
        self.noise = noise
        self.weight = WEIGHTS[weight]
        self.evidence_top_k = evidence_top_k
        self._optimizer = optimizer
        self.validation_likelihood = LikelihoodByMaskRatio()

    def train(self, mode: bool = True) -> "CircuitModule":
        super().train(mode)
        self.backbone.eval()
        return self

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        blocks, noised = self._blocks(batch, self.current_epoch, "training noise")
        cll = conditional_log_likelihood(self.circuit, blocks)  # (M,)
        loss = -(self.weight(noised)[blocks.row] * cll).sum() / len(batch)
        self.log("train/loss", loss.detach(), prog_bar=True, batch_size=len(batch))
        if masked := int(blocks.masked.sum()):
            self.log("train/cll_per_masked_token", cll.detach().sum() / masked, batch_size=masked)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        blocks, _ = self._blocks(batch, 0, "validation noise")
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
        return self._optimizer(self.circuit.named_parameters(), int(self.trainer.estimated_stepping_batches))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        weights = checkpoint["state_dict"]
        checkpoint["state_dict"] = {k: v for k, v in weights.items() if not k.startswith("backbone.")}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        frozen = {f"backbone.{name}": value for name, value in self.backbone.state_dict().items()}
        checkpoint["state_dict"] = {**checkpoint["state_dict"], **frozen}

    def _blocks(self, batch: Batch, epoch: int, purpose: str) -> tuple[Blocks, Noised]:
        noised = self.noise(batch, self.backbone.mask_token_id, epoch, purpose)
        return scored_blocks(self.backbone, batch, noised, self.noise.block_length, self.evidence_top_k), noised
