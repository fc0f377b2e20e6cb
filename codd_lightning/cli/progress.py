"""How far a long piece of work is: a bar on a terminal, a line now and then in files and jobs."""

import logging
import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ProgressBar, RichProgressBar
from tqdm import tqdm

log = logging.getLogger("codd_lightning")

SECONDS = 60.0  # between two lines, at least


class TrainingBar(RichProgressBar):
    """Lightning's bar without the logger's version, which says nothing here."""

    def get_metrics(self, trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, Any]:
        metrics = dict(super().get_metrics(trainer, pl_module))
        metrics.pop("v_num", None)
        return metrics


class TrainingLines(ProgressBar):
    """A line now and then.

    Args:
        seconds: between two of them, at least.
    """

    def __init__(self, seconds: float = SECONDS) -> None:
        super().__init__()
        self._seconds, self._speaks = seconds, True

    def disable(self) -> None:
        self._speaks = False

    def enable(self) -> None:
        self._speaks = True

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        total = int(trainer.estimated_stepping_batches)
        self._lines = Lines(total, "step", "training", trainer.global_step, self._seconds)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        if self._speaks:
            self._lines.reach(trainer.global_step, lambda: self._loss_of(trainer))

    @staticmethod
    def _loss_of(trainer: L.Trainer) -> str:
        loss = trainer.callback_metrics.get("train/loss")
        return "" if loss is None else f", loss {float(loss):.3f}"


def training_progress() -> ProgressBar:
    """The callback that shows how far a trainer is."""
    return TrainingBar() if sys.stdout.isatty() else TrainingLines()


@contextmanager
def show_progress(
    total: int, unit: str, of: str, shown: bool = True, there: int = 0, seconds: float = SECONDS
) -> Iterator[Callable[[int], object]]:
    """Shows how far counted work is; yields what takes the number of units that were just done.

    Args:
        total: units of the work.
        unit: what one is called.
        of: what the work is called.
        shown: or nothing is.
        there: units that were done before; they say nothing of how fast it goes.
        seconds: between two lines, at least.
    """
    if not shown:
        yield lambda done: None
    elif sys.stderr.isatty():
        # the mean speed since the start, not that of the last moment, gives the time left
        with tqdm(total=total, initial=there, unit=unit, desc=of, smoothing=0, leave=False) as bar:
            yield bar.update
    else:
        yield Lines(total, unit, of, there, seconds).advance


class Lines:
    """Says a line when some time has passed since the last, or since it was made."""

    def __init__(self, total: int, unit: str, of: str, there: int, seconds: float) -> None:
        self._total, self._unit, self._of, self._seconds = total, unit, of, seconds
        self._there = self._reached = there
        self._start = self._said = time.monotonic()

    def advance(self, done: int) -> None:
        """Takes the number of units that were just done."""
        self.reach(self._reached + done)

    def reach(self, reached: int, also: Callable[[], str] = str) -> None:
        """Takes how many are done in all, and what gives more to say: a device need not be waited for otherwise."""
        now, self._reached = time.monotonic(), reached
        if now - self._said < self._seconds or reached == self._there:
            return
        self._said = now
        minutes = math.ceil((now - self._start) / (reached - self._there) * (self._total - reached) / 60)
        left = f"about {minutes} minutes left" if minutes > 1 else "less than a minute left"
        log.info("%s: %s %d of %d%s, %s", self._of, self._unit, reached, self._total, also(), left)
