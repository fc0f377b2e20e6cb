"""The misspecification gap at the end of every epoch."""

from typing import Any

import lightning as L

from codd_lightning.callbacks.at_epoch_end import AtEpochEnd, board_of
from codd_lightning.data import TaskDataModule
from codd_lightning.evaluation import Row, evaluate_likelihood, tag
from codd_lightning.evaluation.figures import misspecification_gap, pixels
from codd_lightning.modules import Noise

SEQUENTIAL = ("nll_sequential", "misspecification_gap")  # rows that no circuit changes


class GapCurve(AtEpochEnd):
    """Factorized, coupled and sequential likelihood of held-out examples by mask ratio, as a figure (paper Figure 1).

    The sequential one takes as many passes as tokens are masked: of a frozen backbone it is measured once.

    Args:
        data: where the examples come from: the validation split.
        examples: how many.
        canvas: how they are masked.
        every_n_epochs: how often.
        most_share: of the training time that it may take.
        seed: of the masks.
    """

    def __init__(
        self, data: TaskDataModule, examples: int, canvas: str, every_n_epochs: int, most_share: float, seed: int
    ) -> None:
        super().__init__(every_n_epochs, most_share)
        self._data = data
        self._examples = examples
        self._of_backbone: list[Row] | None = None  # where it is frozen
        self._noise = Noise(canvas, data.block_length, 0.0, seed)

    def show(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        board = board_of(trainer)
        if board is None:
            return
        holds: Any = module  # any of ours: it holds a backbone, and perhaps a circuit
        frozen = not any(parameter.requires_grad for parameter in holds.backbone.parameters())
        known = self._of_backbone if frozen else None
        rows = evaluate_likelihood(
            holds.backbone,
            self._data,
            self._noise,
            circuit=getattr(module, "circuit", None),
            examples=self._examples,
            batch_size=self._examples,
            split="validation",
            evidence_top_k=getattr(module, "evidence_top_k", None),
            sequential=known is None,
        )
        if known is None:
            self._of_backbone = [row for row in rows if row["name"] in SEQUENTIAL]
        else:
            rows += known
        for row in rows:
            if row["name"] == "misspecification_gap":
                board.add_scalar(tag(row), row["value"], trainer.global_step)
        figure = misspecification_gap(rows)
        if figure is not None:
            board.add_image("gap_curve", pixels(figure), trainer.global_step, dataformats="HWC")
