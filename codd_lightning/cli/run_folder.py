"""One run, one folder: what is in it, and whether it may be continued."""

import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn

from codd_lightning.errors import UserError

PACKAGES = ("codd-lightning", "torch", "lightning", "transformers", "torchmetrics", "hydra-core", "omegaconf", "numpy")
# Keys that say where a run goes or how it is shown, not what it computes.
NOT_OF_THE_RUN = ("output_dir", "overwrite")


class RunFolder:
    """The folder of one run.

    Attributes:
        path: the folder.
        checkpoint: the checkpoint to continue from; None for a new run.
    """

    def __init__(self, config: DictConfig) -> None:
        """Finds or makes the folder of a run.

        Raises:
            UserError: it holds a finished run, or an unfinished one of another configuration.
        """
        given = config.output_dir is not None
        default = Path("outputs") / config.experiment_name / datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
        self.path = Path(config.output_dir) if given else default
        self.checkpoint: Path | None = None
        self._resolved = OmegaConf.to_yaml(config, resolve=True)
        if self.path.exists() and not self.path.is_dir():
            raise UserError(f"output_dir={self.path} is a file")
        if config.overwrite and self.path.exists() and any(self.path.iterdir()) and not self._is_run:
            raise UserError(f"output_dir={self.path} holds files but no run: it is not overwritten; give another")
        if self.config_file.exists() and not config.overwrite:
            self._require_continuable(config)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"output_dir={self.path} cannot be made: {error.strerror}") from None
        if config.overwrite:
            self.results_file.unlink(missing_ok=True)
            for part in (self.checkpoints, self.path / "tensorboard"):
                shutil.rmtree(part, ignore_errors=True)
        write_text(self.config_file, self._resolved)

    @property
    def _is_run(self) -> bool:
        return self.config_file.is_file() and (self.path / "manifest.json").is_file()

    @property
    def config_file(self) -> Path:
        return self.path / "config.yaml"

    @property
    def results_file(self) -> Path:
        return self.path / "results.json"

    @property
    def log_file(self) -> Path:
        return self.path / "log.txt"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    def _require_continuable(self, config: DictConfig) -> None:
        if self.results_file.exists():
            raise UserError(
                f"output_dir={self.path} holds a finished run: add overwrite=true, or give another output_dir"
            )
        if _of_the_run(self.config_file.read_text()) != _of_the_run(self._resolved):
            raise UserError(
                f"output_dir={self.path} holds an unfinished run of another configuration: "
                "add overwrite=true, or give another output_dir"
            )
        last = self.checkpoints / "last.ckpt"
        self.checkpoint = last if last.exists() else None


def _of_the_run(resolved: str) -> dict[str, Any]:
    """What a resolved configuration says of the computation."""
    config = OmegaConf.to_container(OmegaConf.create(resolved))
    assert isinstance(config, dict), "a run's configuration is a mapping"
    return {str(key): value for key, value in config.items() if key not in NOT_OF_THE_RUN}


class Manifest:
    """What a run was made with; rewritten whenever something is known better."""

    def __init__(self, folder: RunFolder, config: DictConfig) -> None:
        self._path = folder.path / "manifest.json"
        self._started = time.time()
        earlier = json.loads(self._path.read_text()) if folder.checkpoint and self._path.exists() else {}
        self._values: dict[str, Any] = {
            "experiment": config.experiment_name,
            "command_line": sys.argv,
            "seed": config.seed,
            "versions": {"python": platform.python_version(), **_versions(PACKAGES)},
            "hardware": {
                "machine": platform.machine(),
                "cpus": os.cpu_count(),
                "threads": torch.get_num_threads(),
                "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
            },
            "git": _git(),
            "started": earlier.get("started", datetime.now().isoformat(timespec="seconds")),
            "resumed": earlier.get("resumed", []),
            "fingerprints": {},
        }
        self.update()

    def update(self, **values: Any) -> None:
        """Adds values and writes the file."""
        self._values.update(values)
        write_text(self._path, json.dumps(self._values, indent=1, default=str) + "\n")

    def resume(self, step: int) -> None:
        """Notes that this start went on from a step."""
        self.update(resumed=[*self._values["resumed"], {"step": step}])

    @property
    def seconds(self) -> float:
        """Since this start."""
        return time.time() - self._started


def write_text(path: Path, text: str) -> None:
    """Writes a file beside its place and moves it there."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.partial")
    beside.write_text(text)
    os.replace(beside, path)


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
