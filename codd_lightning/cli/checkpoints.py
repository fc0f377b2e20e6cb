"""The checkpoints of a run: its last two, of which one is always whole, and its best."""

import os
import shutil
import time
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Checkpoint

from codd_lightning.cli.checkpoint_files import BEST, LAST, PREVIOUS
from codd_lightning.errors import UserError
from codd_lightning.seeding import random_states, restore_random_states

STATES = "random_states"


class RunCheckpoints(Checkpoint):
    """Keeps what a stopped run goes on from, exactly: at the end of every epoch, and between as often as asked.

    A checkpoint is written beside and renamed, and the one before it is kept. The best shares its bytes with the last
    of its epoch (hard links).

    Args:
        folder: where they lie.
        monitor: what is least in the best; asked at the end of every epoch; None keeps no best.
        every_n_steps: how many updates apart; None for never.
        minutes: how much time apart; None for never.

    Attributes:
        seconds: spent on writing, in this start of the run.
        written: how many were, in this start of the run.
    """

    def __init__(self, folder: Path, monitor: str | None, every_n_steps: int | None, minutes: float | None) -> None:
        self._folder, self._monitor = folder, monitor
        self._every_n_steps, self._minutes = every_n_steps, minutes
        self._least: float | None = None
        self._random_states: dict[str, Any] | None = None
        self._clock = time.monotonic()
        self._step = 0  # of the last one
        self.seconds, self.written = 0.0, 0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._clock, self._step = time.monotonic(), trainer.global_step
        if self._random_states is not None:
            restore_random_states(self._random_states)
            self._random_states = None

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        if trainer.should_stop or trainer.fit_loop.epoch_loop.batch_progress.is_last_batch:
            return  # validation comes first
        if self._is_due(trainer):
            self.save(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        value = None if self._monitor is None else trainer.callback_metrics.get(self._monitor)
        best = value is not None and (self._least is None or float(value) < self._least)
        if value is not None and best:
            self._least = float(value)
        self.save(trainer, best=best)

    def save(self, trainer: L.Trainer, best: bool = False) -> None:
        """Writes a checkpoint now; on all ranks together.

        Args:
            trainer: in the middle of `fit`, after a batch or at the end of an epoch.
            best: keep it as the best as well.

        Raises:
            UserError: it cannot be written; the checkpoints before it are whole.
        """
        started = time.monotonic()
        beside = self._folder / f".{LAST}.partial"
        if trainer.is_global_zero:
            self._folder.mkdir(parents=True, exist_ok=True)
            _remove(beside)
        trainer.strategy.barrier()
        try:
            trainer.save_checkpoint(beside, weights_only=False)
            trainer.strategy.barrier()
            if trainer.is_global_zero:
                if best:
                    _link(beside, self._folder / BEST)
                _remove(self._folder / PREVIOUS)
                if (self._folder / LAST).exists():
                    os.replace(self._folder / LAST, self._folder / PREVIOUS)
                os.replace(beside, self._folder / LAST)
        except OSError as error:
            _remove(beside)
            kept = f"{self._folder / LAST} before it is whole" if (self._folder / LAST).exists() else "it was the first"
            raise UserError(f"no checkpoint of step {trainer.global_step} can be written: {error}; {kept}") from None
        self._clock, self._step = time.monotonic(), trainer.global_step
        self.seconds += self._clock - started
        self.written += 1

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint[STATES] = random_states()

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        self._random_states = checkpoint[STATES]

    def state_dict(self) -> dict[str, Any]:
        return {"least": self._least}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._least = state_dict["least"]

    def _is_due(self, trainer: L.Trainer) -> bool:
        every = self._every_n_steps  # a batch may be several updates
        if every is not None and trainer.global_step // every > self._step // every:
            return True
        if self._minutes is None:
            return False
        late = time.monotonic() - self._clock >= 60.0 * self._minutes
        return trainer.strategy.broadcast(late)  # clocks differ, and all ranks write together


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _link(source: Path, target: Path) -> None:
    """A second name for a checkpoint; a copy where the file system has no such thing."""
    beside = target.with_name(f".{target.name}.partial")
    _remove(beside)
    if source.is_dir():
        shutil.copytree(source, beside, copy_function=_link_or_copy)
        _remove(target)
    else:
        _link_or_copy(source, beside)
    os.replace(beside, target)


def _link_or_copy(source: Any, target: Any) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
