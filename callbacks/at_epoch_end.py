"""What callbacks that act at the end of an epoch have in common: when they act, where they write, what they cost."""

import logging
import time
from abc import ABC, abstractmethod

import lightning as L
from lightning.pytorch.loggers import TensorBoardLogger
from torch.utils.tensorboard import SummaryWriter

log = logging.getLogger("codd_lightning")


def board_of(trainer: L.Trainer) -> SummaryWriter | None:
    """Where to write to TensorBoard; None on other processes than the first, and without a TensorBoard logger."""
    if trainer.is_global_zero and isinstance(trainer.logger, TensorBoardLogger):
        return trainer.logger.experiment
    return None


class AtEpochEnd(L.Callback, ABC):
    """Shows something after the validation of every so many epochs, on the first process alone.

    Says once in the log when it has taken more of the training time than it may.

    Args:
        every_n_epochs: how often.
        most_share: of the time since training started that it may have taken at the end of an epoch.
    """

    def __init__(self, every_n_epochs: int, most_share: float) -> None:
        self._every = every_n_epochs
        self._most_share = most_share
        self._seconds = 0.0
        self._started = 0.0
        self._warned = False

    @abstractmethod
    def show(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Asks for what is shown, and shows it."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._seconds, self._started = 0.0, time.perf_counter()

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.sanity_checking or not trainer.is_global_zero or (trainer.current_epoch + 1) % self._every:
            return
        started = time.perf_counter()
        self.show(trainer, pl_module)
        self._seconds += time.perf_counter() - started

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        share = self._seconds / (time.perf_counter() - self._started)
        if share > self._most_share and not self._warned:
            self._warned = True
            name = type(self).__module__.rpartition(".")[2]
            log.warning(
                "callbacks.%s took %.1f s, %.1f %% of the training time and more than its most_share=%g: "
                "raise callbacks.%s.every_n_epochs (%d now), ask it for fewer examples, or allow it more",
                *(name, self._seconds, 100 * share, self._most_share, name, self._every),
            )
