"""The checkpoints of a run: its last epoch, and its best."""

from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from codd_lightning.errors import UserError


class RunCheckpoint(ModelCheckpoint):
    """One checkpoint in a run's folder, which may have been moved since it was written.

    Args:
        folder: where it is written.
        name: of the file.
        monitor: what is least in the best; None keeps the last.
    """

    def __init__(self, folder: Path, name: str, monitor: str | None = None) -> None:
        super().__init__(dirpath=folder, filename=name, monitor=monitor, enable_version_counter=False)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        def here(path: str) -> str:
            return str(Path(str(self.dirpath)) / Path(path).name) if path else path

        super().load_state_dict(
            {
                **state_dict,
                "dirpath": self.dirpath,
                "best_k_models": {here(path): score for path, score in state_dict["best_k_models"].items()},
                **{name: here(state_dict[name]) for name in ("best_model_path", "kth_best_model_path")},
                "last_model_path": "",  # written by another of these
            }
        )


def read_checkpoint(path: Path) -> dict[str, Any]:
    """What is in a checkpoint; tensors and plain values only.

    Raises:
        UserError: the file is not a whole checkpoint.
    """
    try:
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
    module.on_load_checkpoint(checkpoint)
    module.load_state_dict(checkpoint["state_dict"])
