"""Training of a circuit and its backbone together."""

from typing import Any

from codd_lightning.backbones import Backbone, add_lora, merge_lora
from codd_lightning.circuits import Circuit, EvidenceError
from codd_lightning.data import Batch, Blocks
from codd_lightning.errors import UserError
from codd_lightning.modules.backbone_module import require_trainable
from codd_lightning.modules.circuit_module import CircuitModule
from codd_lightning.modules.cycles import CyclicAdamW
from codd_lightning.modules.noise import Noise
from codd_lightning.modules.optimizers import AdamW


class JointModule(CircuitModule):
    """Trains a circuit and its backbone on the conditional log-likelihood of the coupled distribution (paper Eq. 7).

    The backbone's distributions need no longer be right token by token: only their product with the circuit must be.

    Args:
        backbone: all its parameters are trained, or low-rank updates of them, which `finish` merges.
        circuit: likewise trained, best from what it has learnt on the frozen backbone.
        noise: how batches are masked; its seed starts the updates.
        weight: "inverse_t", "per_token" or "flat".
        optimizer: with its schedule; its rate is the circuit's.
        evidence_top_k: tokens per position that evidence keeps; None for all.
        backbone_lr: peak learning rate of the backbone, on the same schedule.
        lora_rank: of the updates; None trains everything.

    Raises:
        UserError: the backbone's weights are not all here or quantised, the optimizer is another, or the rank is above
            the backbone's width.
    """

    def __init__(
        self,
        backbone: Backbone | None,
        circuit: Circuit,
        noise: Noise,
        weight: str,
        optimizer: AdamW,
        evidence_top_k: int | None = None,
        backbone_lr: float = 1e-4,
        lora_rank: int | None = None,
    ) -> None:
        if backbone is None:
            raise UserError("objective=joint_likelihood changes the backbone, so that no evidence lasts: no cache.path")
        if type(optimizer) not in (AdamW, CyclicAdamW):
            name = type(optimizer).__name__
            raise UserError(f"objective=joint_likelihood trains with optimizer=adamw or adamw_cycles, not {name}")
        if isinstance(optimizer, CyclicAdamW) and optimizer.alone_cycles:
            said = f"optimizer.alone_cycles={optimizer.alone_cycles}"
            raise UserError(f"{said}: in them the backbone of objective=joint_likelihood would learn nothing: use 0")
        if getattr(backbone, "stored", None) is not None:
            raise UserError("objective=joint_likelihood needs the whole backbone on every rank: use trainer=ddp")
        require_trainable(backbone)
        width = backbone.hidden_size
        if lora_rank is not None and width is not None and lora_rank > width:
            raise UserError(f"objective.lora_rank={lora_rank} is more than the width of the backbone: at most {width}")
        super().__init__(backbone, circuit, noise, weight, optimizer, evidence_top_k)
        self.backbone: Backbone
        self._optimizer: AdamW
        self._backbone_lr, self._lora_rank = backbone_lr, lora_rank
        if lora_rank is None:
            backbone.requires_grad_()
        else:
            add_lora(backbone, lora_rank, noise.seed)

    def _blocks(self, batch: Batch | Blocks, epoch: int, purpose: str) -> Blocks:
        try:
            return super()._blocks(batch, epoch, purpose)
        except EvidenceError as error:  # no frozen backbone comes to that
            raise UserError(
                f"objective.backbone_lr={self._backbone_lr}: at step {self.global_step} the backbone predicts nothing "
                f"any more ({error}): use a lower one"
            ) from None

    def optimizer_for(self, total_steps: int) -> dict[str, Any]:
        of_circuit = [(name, p) for name, p in self.circuit.named_parameters() if p.requires_grad]
        of_backbone = [p for p in self.backbone.parameters() if p.requires_grad]
        if not of_circuit:
            raise UserError("objective=joint_likelihood: this circuit has no parameters: use masked_diffusion")
        optimizer = self._optimizer.optimizer(of_circuit)
        optimizer.add_param_group({"params": of_backbone, "lr": self._backbone_lr})
        return self._optimizer.scheduled(optimizer, total_steps)

    def finish(self) -> None:
        """Leaves a backbone like any other."""
        if self._lora_rank is not None:
            merge_lora(self.backbone)
