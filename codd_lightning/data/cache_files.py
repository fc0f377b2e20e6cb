"""The small files of an evidence cache: how they are read and written, and what they must hold."""

import json
import os
import zlib
from pathlib import Path
from typing import Any

from codd_lightning.errors import UserError

SPLITS = ("train", "validation")
CHUNK = 2**20  # bytes that are summed at once


def require_whole_settings(place: Path, values: dict[str, Any]) -> None:
    """Refuses settings that are not what a cache is written with.

    Args:
        place: of their file.
        values: settings, writing, examples, epochs and backbone, see `CacheFolder`.

    Raises:
        UserError: names the first that is damaged, its value, and what it must be.
    """
    writing, counts = values["writing"], "a mapping of train and validation to whole numbers from 1"
    for name, whole, wanted in (
        ("settings", isinstance(values["settings"], dict) and values["settings"], "a mapping that is not empty"),
        (
            "writing",
            _has_counts(writing, ("data.batch_size", "cache.shard_batches")),
            "a mapping with data.batch_size and cache.shard_batches, whole numbers from 1",
        ),
        ("examples", _has_counts(values["examples"], SPLITS), counts),
        ("epochs", _has_counts(values["epochs"], SPLITS), counts),
        ("backbone", isinstance(values["backbone"], str), "a text"),
    ):
        if not whole:
            raise UserError(
                f"{place} is damaged: {name} is {json.dumps(values[name])[:60]} and not {wanted}: delete the folder "
                "and write the cache again with codd cache"
            )


def _has_counts(values: Any, names: tuple[str, ...]) -> bool:
    return isinstance(values, dict) and all(
        type(values.get(name)) is int and values[name] >= 1
        for name in names  # a boolean is no number
    )


def is_entry(value: Any) -> bool:
    """Whether a value of the index tells rows, bytes and CRC-32 of a shard."""
    return isinstance(value, dict) and all(type(value.get(name)) is int for name in ("rows", "bytes", "crc32"))


def crc32(path: Path) -> int:
    """Of all bytes of a file."""
    found = 0
    with path.open("rb") as file:
        while some := file.read(CHUNK):
            found = zlib.crc32(some, found)
    return found


def read_json(path: Path, absent: str) -> dict[str, Any]:
    """The JSON object in a file.

    Args:
        path: of the file.
        absent: what to say where there is none.

    Raises:
        UserError: there is none, or it cannot be read.
    """
    try:
        values = json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(absent) from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read ({error}): write the cache again with codd cache") from None
    if not isinstance(values, dict):
        raise UserError(f"{path} must hold a JSON object: write the cache again with codd cache")
    return values


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Writes a JSON object beside its place and moves it there."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.partial")
    beside.write_text(json.dumps(values, indent=1) + "\n")
    os.replace(beside, path)
