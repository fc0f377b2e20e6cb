"""Whether a circuit uses its states, at the end of every epoch."""

import logging

import lightning as L

from codd_lightning.callbacks.at_epoch_end import AtEpochEnd, board_of
from codd_lightning.circuits import Circuit
from codd_lightning.data import TaskDataModule
from codd_lightning.evaluation import evaluate_health, tag

log = logging.getLogger("codd_lightning")


class CircuitHealth(AtEpochEnd):
    """Effective and dead states and the entropy of transitions, given the true tokens of held-out examples.

    Asks no backbone, so it works in training from an evidence cache as well.

    Args:
        data: where the examples come from: the validation split.
        examples: how many.
        every_n_epochs: how often.
        most_share: of the training time that it may take.
    """

    def __init__(self, data: TaskDataModule, examples: int, every_n_epochs: int, most_share: float) -> None:
        super().__init__(every_n_epochs, most_share)
        self._data = data
        self._examples = examples
        self._noted = False

    def show(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        board = board_of(trainer)
        if board is None:
            return
        circuit = getattr(module, "circuit", None)
        rows = []
        if isinstance(circuit, Circuit):
            rows = evaluate_health(circuit, self._data, examples=self._examples, split="validation")
        if not rows and not self._noted:
            self._noted = True
            what = "no circuit" if circuit is None else f"the structure {circuit.structure} has no states"
            log.info("callbacks.circuit_health shows nothing here: %s", what)
        for row in rows:
            board.add_scalar(f"circuit_health/{tag(row)}", row["value"], trainer.global_step)
