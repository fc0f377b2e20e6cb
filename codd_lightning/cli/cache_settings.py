"""What an evidence cache depends on, and whether one fits an experiment."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from codd_lightning.backbones import files_digest
from codd_lightning.circuits import Circuit, Reads
from codd_lightning.cli.compose import callbacks_of
from codd_lightning.configs.schema.callbacks import AsksBackbone
from codd_lightning.configs.schema.training import JointLikelihood
from codd_lightning.data import CachedDataModule, CacheFolder, EncodedDataset, TaskDataModule
from codd_lightning.data.evidence_cache import HALVES, STORED
from codd_lightning.errors import UserError

SPLITS = ("train", "validation")
MOST_ENCODED = 4096  # examples of a split that the digest reads
# Options of a group that change nothing of what is stored: where it is computed, and how it is cut into batches.
NOT_OF_THE_CACHE = (
    "device",
    "device_map",
    "attention",
    "path_or_repo",
    "batch_size",
    "num_workers",
    "test_size",
    "task.test",
)


def require_cacheable(config: DictConfig) -> None:
    """Refuses experiments whose training asks no frozen backbone, and values that no cache has.

    Raises:
        UserError: names the option and the mend.
    """
    if config.circuit._target_ is None:
        raise UserError(
            f"{config.experiment_name} trains no circuit (circuit=none), and only one on a frozen backbone learns from "
            "an evidence cache: train without one"
        )
    if not config.objective.get("conditional", True):
        raise UserError(
            "objective=likelihood learns from clean text, so it needs no evidence cache: leave cache.path out"
        )
    if OmegaConf.get_type(config.objective) is JointLikelihood:
        raise UserError(
            "objective=joint_likelihood changes the backbone, so that no evidence lasts: train without a cache"
        )
    if config.cache.dtype not in STORED:
        raise UserError(f"cache.dtype={config.cache.dtype} is not one of {', '.join(STORED)}")
    if config.cache.hidden is not None and config.cache.hidden not in HALVES:
        raise UserError(f"cache.hidden={config.cache.hidden} is not one of null, {', '.join(HALVES)}")
    if config.cache.before and config.cache.hidden is None:
        raise UserError("cache.before=true stores hidden states, and cache.hidden=null none: give cache.hidden=float16")


def require_stored(config: DictConfig, circuit: Circuit) -> None:
    """Refuses a cache that lacks the hidden states that a circuit reads.

    Raises:
        UserError: names the options to write it with.
    """
    stored = Reads.NOTHING if config.cache.hidden is None else Reads.BLOCK
    if config.cache.before:
        stored = Reads.EVERYTHING_BEFORE
    if circuit.reads > stored:
        before = " cache.before=true" if circuit.reads == Reads.EVERYTHING_BEFORE else ""
        raise UserError(
            f"cache.hidden={config.cache.hidden or 'null'} cache.before={str(config.cache.before).lower()}: this "
            f"circuit reads more of the backbone's hidden states: use cache.hidden=float16{before}"
        )


def cache_settings(config: DictConfig, data: TaskDataModule) -> dict[str, Any]:
    """All that stored rows depend on, by the options' names; digests by names with a space.

    The backbone is told by its files, so that none of its weights are loaded (`files_digest` says what that sees); one
    made from scratch is told by its options and the seed. The data are told by their options, and by the token ids of
    at most 4,096 examples of each split, evenly spaced.
    """
    settings: dict[str, Any] = {}
    path = config.backbone.get("path_or_repo")
    if path is not None:
        settings["backbone files"] = files_digest(path)
    for group in ("backbone", "data"):
        options = OmegaConf.to_container(config[group], resolve=True)
        settings |= {f"{group}.{name}": value for name, value in _flat(options) if name not in NOT_OF_THE_CACHE}
    for name in ("objective.canvas", "objective.fully_masked", "objective.from_left", "seed", "trainer.precision"):
        settings[name] = OmegaConf.select(config, name)
    for name in ("top_k", "dtype", "hidden", "before"):
        settings[f"cache.{name}"] = config.cache[name]
    for split in SPLITS:
        settings[f"{split} examples"] = _examples_digest(data.dataset(split))
    return settings


def new_cache(config: DictConfig, data: TaskDataModule, backbone: str) -> CacheFolder:
    """The folder that an experiment's cache belongs in; nothing is written.

    Args:
        config: of the experiment.
        data: its examples.
        backbone: fingerprint of the weights.
    """
    settings = cache_settings(config, data)
    writing = {
        "cache.epochs": config.cache.epochs,
        "cache.shard_batches": config.cache.shard_batches,
        "data.batch_size": config.data.batch_size,
    }
    fingerprint = hashlib.sha256(json.dumps([settings, writing], sort_keys=True).encode()).hexdigest()[:12]
    default = Path("outputs") / "cache" / f"{config.experiment_name}-{fingerprint}"
    return CacheFolder(
        path=default if config.cache.path is None else Path(config.cache.path),
        settings=settings,
        writing=writing,
        examples={split: len(data.dataset(split)) for split in SPLITS},
        epochs={"train": config.cache.epochs, "validation": 1},
        backbone=backbone,
    )


def open_cache(config: DictConfig, data: TaskDataModule) -> CachedDataModule:
    """The stored batches that an experiment trains on instead of asking its backbone.

    Raises:
        UserError: the cache is missing, damaged or of other settings, or something here asks the backbone in training.
    """
    require_cacheable(config)
    for name in asking_callbacks(config):
        raise UserError(
            f"callbacks.{name} asks the backbone, which stays out of memory in training from a cache: "
            f"add callbacks.{name}.enabled=false, or callbacks=none (the final measurement is the same without), or "
            "leave cache.path out"
        )
    folder = CacheFolder.open(Path(config.cache.path))
    folder.require_same(folder.settings, cache_settings(config, data))
    if config.cache.epochs > folder.epochs["train"]:
        folder.require_same({"cache.epochs": folder.epochs["train"]}, {"cache.epochs": config.cache.epochs})
    return CachedDataModule(folder, config.data.batch_size, config.cache.epochs, config.data.num_workers)


def asking_callbacks(config: DictConfig) -> list[str]:
    """Callbacks that ask the backbone during training: their schema says so."""
    return [
        name
        for name, callback in callbacks_of(config)
        if issubclass(OmegaConf.get_type(callback) or dict, AsksBackbone)
    ]


def _flat(values: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _examples_digest(dataset: EncodedDataset) -> str:
    digest = hashlib.sha256(str(len(dataset)).encode())
    for position in range(0, len(dataset), -(-len(dataset) // MOST_ENCODED)):
        encoded = dataset[position]
        digest.update(json.dumps([encoded.index, encoded.prompt, encoded.response]).encode())
    return digest.hexdigest()[:16]
