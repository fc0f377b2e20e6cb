"""One run, one folder: what is in it, and whether it may be continued."""

import fcntl
import logging
import os
import shutil
from datetime import datetime
from pathlib import Path
from typing import Any, TextIO

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from codd_lightning.cli.slurm import restarted
from codd_lightning.errors import UserError

log = logging.getLogger("codd_lightning")

# Keys that say where a run goes or how it is shown, not what it computes.
NOT_OF_THE_RUN = ("output_dir", "overwrite", "trainer.progress_bar")
# What a run writes; nothing else in its folder is ever touched.
PARTS = (
    *("config.yaml", "manifest.json", "results.json", "samples.jsonl", "log.txt"),
    *("checkpoints", "tensorboard", "circuit", "backbone", "samples"),
)
LOCK = ".lock"
MEND = "add overwrite=true, or give another output_dir"


class RunFolder:
    """The folder of one run.

    A run that is overwritten stays whole in `.replaced` until the new one is.

    Attributes:
        path: the folder.
    """

    def __init__(self, config: DictConfig) -> None:
        """Names the folder of a run, and touches nothing."""
        default = Path("outputs") / config.experiment_name / datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
        self.path = default if config.output_dir is None else Path(config.output_dir)
        self._config = config
        self._lock: TextIO | None = None

    def prepare(self) -> None:
        """Makes the folder, or finds in it what can be continued or replaced.

        Raises:
            UserError: it holds a finished run, an unfinished one of another configuration, or other files of
                the same names, or its name holds a variable.
        """
        expanded = Path(os.path.expandvars(self.path))
        if expanded != self.path:  # Lightning's logger expands it, and nothing else does
            raise UserError(f"output_dir={self.path} would be {expanded} to TensorBoard: name the folder in full")
        config = self._config
        resolved = OmegaConf.to_yaml(config, resolve=True)
        overwrite = config.overwrite and not (restarted() and self._replaced.exists())  # a job does it once
        try:
            if overwrite:
                self._require_replaceable()
            else:
                self._require_continuable(resolved)
            if self.path.is_file():
                raise UserError(f"output_dir={self.path} is a file: name a folder")
            self.path.mkdir(parents=True, exist_ok=True)
            self.hold()
            if overwrite:
                self._move_aside()
            write_text(self.config_file, resolved)
        except OSError as error:
            raise UserError(f"output_dir={self.path} cannot be used: {error.strerror}") from None

    def close(self) -> None:
        """Lets other commands into the folder."""
        if self._lock is not None:
            self._lock.close()

    def hold(self) -> None:
        """Keeps other commands out of the folder, until it is closed or this process ends.

        Raises:
            UserError: another one is at work in it.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock = (self.path / LOCK).open("a")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.close()
            raise UserError(
                f"output_dir={self.path}: another command works in this folder; wait for it, or give another"
            ) from None
        except OSError:
            log.debug("%s: this file system has no locks", self.path)

    @property
    def continued(self) -> bool:
        """Whether there are checkpoints to continue from."""
        return any(self.checkpoints.glob("*.ckpt"))

    def interrupted(self) -> KeyboardInterrupt:
        """Ctrl-C, with what to do next."""
        if self.continued:
            return KeyboardInterrupt(f"add output_dir={self.path} to continue from the last checkpoint")
        if (self.path / "samples").exists():
            return KeyboardInterrupt(f"add output_dir={self.path} to go on measuring")
        return KeyboardInterrupt("before the first checkpoint: nothing was saved")

    @property
    def config_file(self) -> Path:
        return self.path / "config.yaml"

    @property
    def manifest_file(self) -> Path:
        return self.path / "manifest.json"

    @property
    def results_file(self) -> Path:
        return self.path / "results.json"

    @property
    def log_file(self) -> Path:
        return self.path / "log.txt"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    def finish(self) -> None:
        """Deletes what a finished run no longer needs: the samples one by one, and the run that this one replaced."""
        shutil.rmtree(self.path / "samples", ignore_errors=True)
        shutil.rmtree(self._replaced, ignore_errors=True)

    @property
    def _replaced(self) -> Path:
        return self.path / ".replaced"

    @property
    def _parts(self) -> list[Path]:
        return [self.path / part for part in PARTS if (self.path / part).exists()]

    def _require_replaceable(self) -> None:
        is_run = self.config_file.is_file() and self.manifest_file.is_file()
        if self.path.exists() and any(file.name != LOCK for file in self.path.iterdir()) and not is_run:
            raise UserError(f"output_dir={self.path} holds files but no run: it is not overwritten; give another")

    def _require_continuable(self, resolved: str) -> None:
        if not self.config_file.exists():
            if self._parts:
                raise UserError(f"output_dir={self.path} holds {self._parts[0].name} of something else: give another")
            return
        if self.results_file.exists():
            raise UserError(f"output_dir={self.path} holds a finished run: {MEND}")
        there, here = _of_the_run(self.config_file.read_text()), _of_the_run(resolved)
        if there != here:
            what = f" ({difference})" if (difference := _first_difference(there, here)) else ""
            raise UserError(f"output_dir={self.path} holds an unfinished run of another configuration{what}: {MEND}")

    def _move_aside(self) -> None:
        """Puts what is there where `finish` deletes it; of two replaced runs the first, whole one is kept."""
        if self._replaced.exists():
            for part in self._parts:
                shutil.rmtree(part) if part.is_dir() else part.unlink()
            return
        self._replaced.mkdir()
        for part in self._parts:
            os.replace(part, self._replaced / part.name)


def holds_finished(config: DictConfig) -> bool:
    """Whether a configuration's folder holds a finished run of it."""
    folder = Path(config.output_dir)
    if not (folder / "results.json").is_file() or not (folder / "config.yaml").is_file():
        return False
    return _of_the_run((folder / "config.yaml").read_text()) == _of_the_run(OmegaConf.to_yaml(config, resolve=True))


def _of_the_run(resolved: str) -> dict[str, Any] | None:
    """What a resolved configuration says of the computation; None where it is not one."""
    try:
        config = OmegaConf.to_container(OmegaConf.create(resolved))
    except (yaml.YAMLError, OmegaConfBaseException):
        return None
    if not isinstance(config, dict):
        return None
    for key in NOT_OF_THE_RUN:
        *parents, name = key.split(".")
        part: Any = config
        for parent in parents:
            part = part.get(parent, {})
        part.pop(name, None)
    return {str(key): value for key, value in config.items()}


def _first_difference(there: Any, here: Any, key: str = "") -> str | None:
    """The first key whose values differ, as `key is 1 there, 2 here`."""
    if isinstance(there, dict) and isinstance(here, dict):
        for name in dict.fromkeys([*there, *here]):
            place = f"{key}.{name}" if key else str(name)
            if difference := _first_difference(there.get(name), here.get(name), place):
                return difference
        return None
    return f"{key} is {there} there, {here} here" if key and there != here else None


def write_text(path: Path, text: str) -> None:
    """Writes a file beside its place and moves it there."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.partial")
    beside.write_text(text)
    os.replace(beside, path)
