"""What the command line set, beside what was measured in the end: TensorBoard's page of hyperparameters."""

from collections.abc import Mapping, Sequence
from typing import Any

import lightning as L
from lightning.pytorch.loggers import TensorBoardLogger

from codd_lightning.callbacks.at_epoch_end import board_of
from codd_lightning.evaluation import Row, tag


class HParams(L.Callback):
    """Writes a run's overrides as hyperparameters and its final metrics as `test/TAG`, so that a grid can be compared.

    Args:
        metrics: names of the rows that are written.
    """

    def __init__(self, metrics: Sequence[str]) -> None:
        self._metrics = list(metrics)

    def on_results(self, trainer: L.Trainer, rows: Sequence[Row], settings: Mapping[str, Any]) -> None:
        if board_of(trainer) is None:
            return
        assert isinstance(trainer.logger, TensorBoardLogger), "it has a board"
        final = {f"test/{tag(row)}": row["value"] for row in rows if row["name"] in self._metrics}
        trainer.logger.log_hyperparams(dict(settings), final, trainer.global_step)
        trainer.logger.finalize("success")
