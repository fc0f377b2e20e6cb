"""What a run was made with."""

import hashlib
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch import nn

from codd_lightning.cli.run_folder import RunFolder, write_text
from codd_lightning.errors import UserError

PACKAGES = ("codd-lightning", "torch", "lightning", "transformers", "torchmetrics", "hydra-core", "omegaconf", "numpy")


class Manifest:
    """What a run was made with; rewritten whenever something is known better."""

    def __init__(self, folder: RunFolder, config: DictConfig) -> None:
        self._path = folder.manifest_file
        self._started = time.time()
        earlier = _read(self._path) if folder.continued else {}
        self._earlier_seconds = float(earlier.get("seconds", 0.0))
        self._values: dict[str, Any] = {
            "experiment": config.experiment_name,
            "command_line": sys.argv,
            "seed": config.seed,
            "hardware": {
                "machine": platform.machine(),
                "cpus": os.cpu_count(),
                "threads": torch.get_num_threads(),
                "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
            },
            **versions_and_commit(),
            "started": earlier.get("started", datetime.now().isoformat(timespec="seconds")),
            "resumed": earlier.get("resumed", []),
            "fingerprints": {},
        }
        self.update()

    def update(self, **values: Any) -> None:
        """Adds values and the time so far, and writes the file."""
        self._values.update(values, seconds=self.seconds)
        write_text(self._path, json.dumps(self._values, indent=1, default=str) + "\n")

    def resume(self, step: int) -> None:
        """Notes that this start went on from a step."""
        self.update(resumed=[*self._values["resumed"], {"step": step}])

    def checkpoints(self, written: int, seconds: float) -> None:
        """Adds the checkpoints of this start that reached its end, and the time that they took."""
        self.update(checkpoints={"written": written, "seconds": round(seconds, 3)})

    @property
    def seconds(self) -> float:
        """Of this start and of those before it, as far as they were written down."""
        return self._earlier_seconds + time.time() - self._started


def versions_and_commit() -> dict[str, Any]:
    """Of Python, of the packages that matter, and of our own code."""
    return {"versions": {"python": platform.python_version(), **_versions(PACKAGES)}, "git": _git()}


def _read(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}): add overwrite=true, or give another output_dir") from None
    if not isinstance(values, dict):
        raise UserError(f"{path} is not a run's manifest: add overwrite=true, or give another output_dir")
    return values


def fingerprint(module: nn.Module) -> str:
    """Digest of a module's weights: all names and shapes, and a sample of each tensor's values."""
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        flat = value.detach().flatten()
        sample = flat[:: max(1, flat.numel() // 1024)].float().cpu().numpy().tobytes()
        digest.update(f"{name}{tuple(value.shape)}".encode() + sample)
    return digest.hexdigest()[:16]


def _versions(packages: Sequence[str]) -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found


def _git() -> dict[str, Any] | None:
    """Commit and whether the tree is dirty, of the checkout that this package runs from; None outside one."""
    here = Path(__file__).parent

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(["git", *arguments], cwd=here, capture_output=True, text=True, timeout=10)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    commit = git("rev-parse", "HEAD")
    return None if commit is None else {"commit": commit, "dirty": bool(git("status", "--porcelain"))}
