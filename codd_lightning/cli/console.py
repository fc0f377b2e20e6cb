"""What the command shows, and what it keeps off the screen."""

import logging
import os
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import lightning as L
import torch
import transformers
from lightning.pytorch.callbacks import ProgressBar as BaseProgressBar
from lightning.pytorch.callbacks import RichProgressBar

log = logging.getLogger("codd_lightning")


class ProgressBar(RichProgressBar):
    """Lightning's bar without the logger's version, which says nothing here."""

    def get_metrics(self, trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, Any]:
        metrics = dict(super().get_metrics(trainer, pl_module))
        metrics.pop("v_num", None)
        return metrics


class ProgressLines(BaseProgressBar):
    """A line now and then, where no bar can be drawn: in files, and in jobs.

    Args:
        seconds: between two of them, at least.
    """

    def __init__(self, seconds: float = 60.0) -> None:
        super().__init__()
        self._seconds, self._speaks = seconds, True

    def disable(self) -> None:
        self._speaks = False

    def enable(self) -> None:
        self._speaks = True

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._start, self._first = time.monotonic(), trainer.global_step
        self._said = self._start

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        now, step, total = time.monotonic(), trainer.global_step, int(trainer.estimated_stepping_batches)
        if not self._speaks or now - self._said < self._seconds or step == self._first:
            return
        self._said = now
        minutes = (now - self._start) / (step - self._first) * (total - step) / 60
        loss = trainer.callback_metrics.get("train/loss")
        said = "" if loss is None else f", loss {float(loss):.3f}"
        log.info("step %d of %d%s, about %.0f minutes of training left", step, total, said, minutes)


class LogFile(logging.FileHandler):
    """A log file whose failures are raised, not printed between other lines."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  # logging's name
        raise


def log_to(path: Path, speaks: bool = True) -> None:
    """Messages go to the terminal, and with tracebacks to the run's log file.

    Args:
        path: of the file.
        speaks: False on ranks that repeat what another says: their tracebacks alone are written.
    """
    log.setLevel(logging.DEBUG)
    log.propagate = False
    for handler in list(log.handlers):
        log.removeHandler(handler)
        handler.close()
    terminal = logging.StreamHandler(sys.stdout)
    terminal.setLevel(logging.INFO)
    for handler in (terminal, LogFile(path)):
        handler.setFormatter(logging.Formatter("%(message)s"))
        if not speaks:
            handler.addFilter(lambda record: record.exc_info is not None)
        log.addHandler(handler)


def quiet_libraries() -> None:
    """Keeps tips and notes of libraries that a user can do nothing about off the screen."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # transformers imports DeepSpeed, which looks for others aloud
    for name in (
        "lightning.pytorch.utilities.rank_zero",
        "lightning.pytorch.accelerators",
        "lightning.pytorch.strategies",
        "lightning.pytorch.trainer.connectors.signal_connector",
        "lightning.fabric",
    ):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("hydra.utils").setLevel(logging.CRITICAL)  # what it says is raised as well
    warnings.filterwarnings("ignore", message=".*LeafSpec.*", category=FutureWarning)
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings(
        "ignore", message=".*module.s. in eval mode at the start of training.*"
    )  # the backbone: meant
    warnings.filterwarnings("ignore", message=".*Checkpoint directory .* exists and is not empty.*")  # a run goes on
    warnings.filterwarnings("ignore", message=".*dataloader is not resumable.*")  # its sampler goes on where it was
    warnings.filterwarnings("ignore", message=".*sync_dist=True.*")  # metrics sum over ranks by themselves
    warnings.filterwarnings(
        "ignore", message=".*(all_gather_into|reduce_scatter)_tensor.*", category=FutureWarning
    )  # DeepSpeed's
    warnings.filterwarnings("ignore", message=".*DeepSpeed Stage 3 checkpoint, each worker.*")
    warnings.filterwarnings("ignore", message=".*smaller than the logging interval.*")
    warnings.filterwarnings("ignore", message=".*could not find the monitored key.*")
    warnings.filterwarnings("ignore", message=".*srun.*")
