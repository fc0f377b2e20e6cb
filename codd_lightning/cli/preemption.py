"""A run in a job of SLURM that is asked to leave: all ranks save together, and end."""

import logging
from typing import Any

import lightning as L

from codd_lightning.cli.checkpoints import RunCheckpoints
from codd_lightning.cli.slurm import Preempted, notice

log = logging.getLogger("codd_lightning")


class LeaveWhenAsked(L.Callback):
    """Ends training after the batch in which SLURM's signal came to any rank, with a checkpoint.

    Validation is ended at once instead: a run goes on from after a batch or from after a whole epoch, and decoding may
    take longer than SLURM waits.

    Args:
        checkpoints: of the run.
    """

    def __init__(self, checkpoints: RunCheckpoints) -> None:
        self._checkpoints = checkpoints

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        notice.listen()  # Lightning's own handler of SIGTERM talks to the other ranks, wherever they are
        notice.defer()

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        notice.obey()  # the epoch before has just been saved
        notice.defer()

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        asked = trainer.strategy.reduce_boolean_decision(notice.given, all=False)
        if not asked or trainer.should_stop or trainer.fit_loop.epoch_loop.batch_progress.is_last_batch:
            return  # after an epoch's last batch validation comes first
        self._checkpoints.save(trainer)
        trainer.strategy.barrier("saved")  # the first rank may still be renaming
        log.debug("SLURM's signal came: saved at step %d", trainer.global_step)
        raise Preempted(f"saved at step {trainer.global_step}")

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        notice.obey()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        notice.defer()

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        notice.obey()
