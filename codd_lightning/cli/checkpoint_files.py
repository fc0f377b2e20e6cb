"""Checkpoints as files, or folders of shards: how they are written, which of them are whole, and what is in them."""

import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.plugins import TorchCheckpointIO

from codd_lightning.errors import UserError
from codd_lightning.strategies import gathered_weights, read_states

LAST, PREVIOUS, BEST = "last.ckpt", "previous.ckpt", "best.ckpt"


class SyncedFiles(TorchCheckpointIO):
    """Writes a checkpoint straight to its file, and to the disk before it is renamed."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        try:
            with Path(path).open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
        except RuntimeError as error:
            if isinstance(error.__context__, OSError):  # torch complains of the file that it could not finish
                raise error.__context__ from None
            raise


def newest_whole(folder: Path, warn: Callable[[str], None]) -> Path | None:
    """The checkpoint to go on from: the last, or the one before it where that is damaged; None where there is none.

    Raises:
        UserError: there are some, and none is whole.
    """
    there = [folder / name for name in (LAST, PREVIOUS) if (folder / name).exists()]
    damaged: list[Path] = []
    for path in there:
        if is_whole(path):
            if damaged:
                warn(f"checkpoint {damaged[0]} is damaged; continuing from the one before it, {path}")
            return path
        damaged.append(path)
    if damaged:
        raise UserError(f"checkpoint {damaged[0]} cannot be read, nor one before it: add overwrite=true to start again")
    return None


def is_whole(path: Path) -> bool:
    """Whether every file of a checkpoint is there to its end, by the checksums that torch writes into it."""
    files = sorted(path.rglob("*.pt")) if path.is_dir() else [path]
    try:
        for file in files:
            with zipfile.ZipFile(file) as archive:
                if archive.testzip() is not None:
                    return False
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, EOFError):
        return False  # cut short, or never one
    return bool(files)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """What is in a checkpoint, its weights gathered where they are sharded; tensors and plain values only.

    Raises:
        UserError: it is not a whole checkpoint.
    """
    try:
        if path.is_dir():
            checkpoint = {**read_states(path), "state_dict": gathered_weights(path)}
        else:
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        checkpoint["global_step"], checkpoint["state_dict"]
    except OSError:
        raise
    except Exception as error:  # torch has no error of its own for files that are cut short or foreign
        raise UserError(
            f"checkpoint {path} cannot be read ({type(error).__name__}): add overwrite=true to start again"
        ) from None
    return checkpoint


def restore(module: L.LightningModule, path: Path) -> None:
    """Puts a checkpoint's weights into a module."""
    checkpoint = read_checkpoint(path)
    module.load_state_dict(checkpoint["state_dict"])
