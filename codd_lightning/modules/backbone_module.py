"""Masked-diffusion training of a backbone."""

from typing import Any

import lightning as L
from torch import Tensor
from torch.nn import functional as F

from codd_lightning.backbones import Backbone
from codd_lightning.data import Batch
from codd_lightning.diffusion import WEIGHTS, Noised
from codd_lightning.errors import UserError
from codd_lightning.modules.noise import Noise
from codd_lightning.modules.optimizers import OptimizerRecipe


class BackboneModule(L.LightningModule):
    """Trains a backbone to fill masked response tokens: LLaDA's loss (Nie et al., 2025, Eq. 3).

    Args:
        backbone: all its parameters are trained.
        noise: how batches are masked.
        weight: "inverse_t", "per_token" or "flat".
        optimizer: with its schedule.

    Raises:
        UserError: there is no such weight, or the backbone is quantised.
    """

    monitor = "validation/nll_per_masked_token"  # least in the checkpoint that is kept as the best

    def __init__(self, backbone: Backbone, noise: Noise, weight: str, optimizer: OptimizerRecipe) -> None:
        super().__init__()
        if weight not in WEIGHTS:
            raise UserError(f"objective.weight={weight} is not one of {', '.join(WEIGHTS)}")
        require_trainable(backbone)
        self.backbone = backbone
        self.noise = noise
        self.weight = WEIGHTS[weight]
        self._optimizer = optimizer

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        noised = self.noise(batch, self.backbone.mask_token_id, self.current_epoch, "training noise")
        nll, row = self._token_nll(batch, noised)  # (M,), (M,)
        loss = (self.weight(noised.level)[row] * nll).sum() / len(batch)
        self.log("train/loss", loss.detach(), prog_bar=True, batch_size=len(batch))
        if len(nll):
            self.log("train/nll_per_masked_token", nll.detach().mean(), batch_size=len(nll))
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        noised = self.noise(batch, self.backbone.mask_token_id, 0, "validation noise")
        nll, _ = self._token_nll(batch, noised)
        if len(nll):
            self.log(self.monitor, nll.mean(), prog_bar=True, batch_size=len(nll), sync_dist=True)

    def configure_optimizers(self) -> Any:
        return self.optimizer_for(int(self.trainer.estimated_stepping_batches))

    def optimizer_for(self, total_steps: int) -> dict[str, Any]:
        """The optimizer and its schedule over some updates."""
        return self._optimizer(self.backbone.named_parameters(), total_steps)

    def _token_nll(self, batch: Batch, noised: Noised) -> tuple[Tensor, Tensor]:
        """Negative log-likelihood of each scored token, and its row."""
        logits = self.backbone(noised.canvas, batch.attention_mask)[noised.scored].float()
        nll = F.cross_entropy(logits, batch.input_ids[noised.scored], reduction="none")
        return nll, noised.scored.nonzero()[:, 0]


def require_trainable(backbone: Backbone) -> None:
    """Refuses a backbone whose weights cannot be trained.

    Raises:
        UserError: they are quantised.
    """
    if not all(parameter.is_floating_point() for parameter in backbone.parameters()):
        raise UserError("backbone.quantization: quantised weights cannot be trained: leave it out")
