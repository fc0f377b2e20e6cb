"""A finished training run, which lends what it has trained and can be measured again."""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from codd_lightning.cli.manifest import versions_and_commit
from codd_lightning.cli.run_folder import write_text
from codd_lightning.errors import UserError
from codd_lightning.evaluation import Row
from codd_lightning.evaluation.rows import MEASURED

# Folders of what a run has trained, each with the part of the configuration whose place it takes, and its loader.
TRAINED = {
    "circuit": "codd_lightning.circuits.load_circuit",
    "backbone": "codd_lightning.backbones.load_backbone",
}
# What a second measurement may not change.
THE_SAME = ("backbone", "circuit", "data.task", "data.block_length")


@dataclass(frozen=True)
class FinishedRun:
    """A folder with results and with what was trained.

    Attributes:
        path: of the folder.
        results: what `results.json` holds.
    """

    path: Path
    results: dict[str, Any]

    @classmethod
    def at(cls, path: Path) -> "FinishedRun | None":
        """The finished training run in a folder; None where there is none."""
        results = path / "results.json"
        if not results.is_file() or not any((path / part).is_dir() for part in TRAINED):
            return None
        return cls(path, _read_results(results))

    def require_same(self, config: DictConfig) -> None:
        """Checks that a configuration speaks of this run.

        Raises:
            UserError: it names another backbone, circuit, task or block length.
        """
        try:
            saved = OmegaConf.load(self.path / "config.yaml")
            json.loads((self.path / "manifest.json").read_text())["seed"]  # it is written to in the end
        except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError, OmegaConfBaseException) as error:
            why = (str(error).splitlines() or [""])[0]
            raise UserError(
                f"output_dir={self.path}: its config.yaml or manifest.json cannot be read "
                f"({type(error).__name__}: {why}); circuit=pretrained "
                f"circuit.path_or_repo={self.path / 'circuit'} takes its circuit"
            ) from None
        now = OmegaConf.create(OmegaConf.to_yaml(config, resolve=True))
        for key in THE_SAME:
            there, here = OmegaConf.select(saved, key), OmegaConf.select(now, key)
            if there != here:
                whose = self.results.get("experiment")
                raise UserError(
                    f"output_dir={self.path} is a run of {whose} with another {key} ({_difference(key, there, here)}): "
                    "repeat its overrides, or give another folder; "
                    f"circuit=pretrained circuit.path_or_repo={self.path / 'circuit'} takes its circuit"
                )

    def lend(self, config: DictConfig) -> DictConfig:
        """A configuration with what this run has trained in the place of what it started from."""
        changed = config.copy()
        OmegaConf.set_struct(changed, False)
        for part, loader in TRAINED.items():
            if (self.path / part).is_dir():
                device = {"device": config.backbone.get("device", "cpu")} if part == "backbone" else {}
                changed[part] = OmegaConf.create({"_target_": loader, "path_or_repo": str(self.path / part), **device})
        return changed

    def rows_beside(self, rows: Sequence[Row], split: str) -> list[Row]:
        """What a second measurement on a split has not measured again; what comes of samples goes or stays together."""
        again = {_kind(measured) for measured in rows}
        return [old for old in self.results["metrics"] if old["split"] != split or _kind(old) not in again]

    def note_measurement(self, config: DictConfig) -> None:
        """Adds to the manifest that the figures were measured again, when and with what."""
        file = self.path / "manifest.json"
        manifest = json.loads(file.read_text())
        options = {name: OmegaConf.to_container(config[name], resolve=True) for name in MEASURED}
        again = {"started": datetime.now().isoformat(timespec="seconds"), "command_line": sys.argv, **options}
        manifest["measured_again"] = [*manifest.get("measured_again", []), {**again, **versions_and_commit()}]
        write_text(file, json.dumps(manifest, indent=1, default=str) + "\n")


def _difference(key: str, there: Any, here: Any) -> str:
    """The first option that two parts of a configuration have differently, with both values."""
    if not (OmegaConf.is_dict(there) and OmegaConf.is_dict(here)):
        return f"{key}: {there} there, {here} here"
    name = next(name for name in [*there, *here] if there.get(name) != here.get(name))
    return _difference(f"{key}.{name}", there.get(name), here.get(name))


def _read_results(path: Path) -> dict[str, Any]:
    try:
        results = json.loads(path.read_text())
        whole = all({"name", "split"} <= set(row) for row in results["metrics"]) and float(results["seconds"]) >= 0
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        whole = False
    if not whole:
        raise UserError(f"{path} is not a run's results: train again with overwrite=true, or give another output_dir")
    found: dict[str, Any] = results
    return found


def _kind(measured: Row) -> str:
    """Rows of one kind are measured together: those of samples, and each name of the others."""
    return "samples" if "decoder" in measured else str(measured["name"])
