"""What the command shows, and what it keeps off the screen."""

import logging
import os
import sys
import warnings
from pathlib import Path
from typing import TextIO

import torch
import transformers

log = logging.getLogger("codd_lightning")


class Terminal(logging.StreamHandler[TextIO]):
    """Standard output as it is now: a progress bar puts itself in its place, and lines above itself."""

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stdout
        super().emit(record)


class LogFile(logging.FileHandler):
    """A log file whose failures are raised, not printed between other lines."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  # logging's name
        raise


def log_to(path: Path | None, speaks: bool = True) -> None:
    """Messages go to the terminal, and with tracebacks to the run's log file.

    Args:
        path: of the file, if there is a run.
        speaks: False on ranks that repeat what another says: their tracebacks alone are written.
    """
    log.setLevel(logging.DEBUG)
    log.propagate = False
    for handler in list(log.handlers):
        log.removeHandler(handler)
        handler.close()
    terminal = Terminal()
    terminal.setLevel(logging.INFO)
    for handler in (terminal,) if path is None else (terminal, LogFile(path)):
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
