"""The folder of an evidence cache: what it was made with, its shards, and which of them are there."""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from codd_lightning.data.cache_files import crc32, is_entry, read_json, require_whole_settings, write_json
from codd_lightning.data.evidence_cache import RowFormat
from codd_lightning.errors import UserError

SETTINGS, INDEX = "settings.json", "index.json"
VERSION = 1
AGAIN = "run the codd cache command again, which writes it anew"


@dataclass(frozen=True)
class Shard:
    """Some successive examples of one epoch of a split: the unit that is written, kept or done again.

    Attributes:
        name: of its file.
        split: train or validation.
        epoch: of its noise and order.
        start, stop: positions in that order.
    """

    name: str
    split: str
    epoch: int
    start: int
    stop: int


def plan(examples: dict[str, int], epochs: dict[str, int], shard_examples: int) -> list[Shard]:
    """The shards of a cache, in order.

    Args:
        examples: of each split.
        epochs: of each split.
        shard_examples: of each shard but an epoch's last.
    """
    shards = []
    for split, size in examples.items():
        places = [(epoch, start) for epoch in range(epochs[split]) for start in range(0, size, shard_examples)]
        for number, (epoch, start) in enumerate(places):
            name = f"{split}-{number:05d}-of-{len(places):05d}.arrow"
            shards.append(Shard(name, split, epoch, start, min(start + shard_examples, size)))
    return shards


@dataclass(frozen=True)
class CacheFolder:
    """An evidence cache on disk.

    `settings.json` says what it was made with; every shard is an Arrow stream of its own, written beside its place and
    moved there when whole; `index.json`, written last, gives their sizes and CRC-32: a folder without it is unfinished.

    Attributes:
        path: the folder.
        settings: what its rows depend on; training must be configured alike.
        writing: how it is cut into shards, and how many epochs of noise it holds.
        examples: of each split.
        epochs: of each split.
        backbone: fingerprint of the weights that it was made with.
    """

    path: Path
    settings: dict[str, Any]
    writing: dict[str, Any]
    examples: dict[str, int]
    epochs: dict[str, int]
    backbone: str

    @classmethod
    def open(cls, path: Path) -> "CacheFolder":
        """What is in a folder.

        Raises:
            UserError: no cache is there, one of another version, or its settings are damaged.
        """
        values = read_json(path / SETTINGS, f"cache.path={path} holds no evidence cache: write one with codd cache")
        try:
            if values.pop("version") != VERSION:
                raise UserError(f"cache.path={path} was written by another version: write it again with codd cache")
            folder = cls(path, **values)
        except (KeyError, TypeError):
            raise UserError(f"{path / SETTINGS} is not that of an evidence cache: give another cache.path") from None
        require_whole_settings(path / SETTINGS, values)
        return folder

    @property
    def shards(self) -> list[Shard]:
        """All of them, there or not."""
        of_a_shard = int(self.writing["data.batch_size"] * self.writing["cache.shard_batches"])
        return plan(self.examples, self.epochs, of_a_shard)

    def holds(self, shard: Shard) -> bool:
        """Whether a shard is there and has all of its record batches, one for each batch of examples."""
        if not self._file(shard).is_file():
            return False
        try:
            batches = self._batches(shard)
        except UserError:  # cut short
            return False
        return len(batches) == -(-(shard.stop - shard.start) // self.writing["data.batch_size"])

    def start(self) -> None:
        """Makes the folder, or goes on with one that was made with the same settings, without its damaged shards.

        Raises:
            UserError: it holds something else, a cache of other settings, or cannot be written.
        """
        try:
            # listed before the settings are looked for: another process may be starting the same cache
            others = self.path.exists() and any(file.suffix != ".partial" for file in self.path.iterdir())
            if (self.path / SETTINGS).exists():
                there = CacheFolder.open(self.path)
                self.require_same(there.settings, self.settings)
                self.require_same(there.writing, self.writing)
                self._remove_damaged()
                return
            if others:
                raise UserError(f"cache.path={self.path} holds files but no evidence cache: give another folder")
            self.path.mkdir(parents=True, exist_ok=True)
            values = {name: getattr(self, name) for name in ("settings", "writing", "examples", "epochs", "backbone")}
            write_json(self.path / SETTINGS, {"version": VERSION, **values})
        except OSError as error:
            raise UserError(f"cache.path={self.path} cannot be used: {error.strerror}") from None

    def require_same(self, theirs: dict[str, Any], ours: dict[str, Any]) -> None:
        """Refuses a stale cache.

        Raises:
            UserError: names the first setting that differs, both values and the mend.
        """
        for name in [*ours, *(name for name in theirs if name not in ours)]:
            here, there = ours.get(name), theirs.get(name)
            if here == there:
                continue
            option = " " not in name  # others are digests
            said = [json.dumps(value) if not isinstance(value, str) else value for value in (here, there)]
            mend = f"add {name}={said[1]}, or " if option else ""
            raise UserError(
                f"cache.path={self.path} does not fit: {name} is {said[0]} here and {said[1]} in the cache: "
                f"{mend}write another cache with codd cache cache.path=FOLDER"
            )

    @contextmanager
    def write(self, shard: Shard) -> Iterator[Callable[[pa.RecordBatch], None]]:
        """Gives what appends rows to a shard, which takes its place when all are written.

        Raises:
            UserError: the disk is full, or fails.
        """
        place = self._file(shard)
        beside = place.with_name(f".{place.name}.{os.getpid()}.partial")
        try:
            with beside.open("wb") as file:
                writer: pa.RecordBatchStreamWriter | None = None

                def append(rows: pa.RecordBatch) -> None:
                    nonlocal writer
                    if writer is None:
                        writer = pa.ipc.new_stream(file, rows.schema)
                    writer.write_batch(rows)

                yield append
                assert writer is not None, "a shard has at least one batch"
                writer.close()
                file.flush()
                os.fsync(file.fileno())
            os.replace(beside, place)
        except OSError as error:
            raise UserError(
                f"{place} could not be written ({error.strerror or error}): the other shards are kept; make room and "
                "run the same command again"
            ) from None
        finally:
            beside.unlink(missing_ok=True)

    def finish(self) -> bool:
        """Writes the index if every shard is there, whichever process wrote it; returns whether they are."""
        if not all(map(self.holds, self.shards)):
            return False
        index = {}
        for shard in self.shards:
            file, rows = self._file(shard), sum(len(batch) for batch in self._batches(shard))
            index[shard.name] = {"rows": rows, "bytes": file.stat().st_size, "crc32": crc32(file)}
        try:
            write_json(self.path / INDEX, {"shards": index})
        except OSError as error:
            raise UserError(f"{self.path / INDEX} could not be written: {error.strerror}") from None
        for left in self.path.glob(".*.partial"):  # of processes that were killed
            left.unlink(missing_ok=True)
        return True

    def read(self, split: str, check: bool = True) -> list[pa.RecordBatch]:
        """All rows of a split, memory-mapped, in the batches they were written in.

        Args:
            split: train or validation.
            check: read every byte and compare the CRC-32; else sizes alone are compared.

        Raises:
            UserError: there is no such split, the cache is unfinished, or a shard is missing, cut short or changed.
        """
        if split not in self.examples:
            raise UserError(f"cache.path={self.path} has no {split} split; it has {', '.join(self.examples)}")
        index = self.index()
        batches: list[pa.RecordBatch] = []
        for shard in self.shards:
            if shard.split != split:
                continue
            file, entry = self._file(shard), index[shard.name]
            if not file.is_file():
                raise UserError(f"{file} is missing: run the codd cache command again to write it")
            if (size := file.stat().st_size) != entry["bytes"]:
                raise UserError(f"{file} has {size} bytes and not {entry['bytes']}: {AGAIN}")
            if check and (found := crc32(file)) != entry["crc32"]:
                raise UserError(f"{file} is damaged (its CRC-32 is {found:08x} and not {entry['crc32']:08x}): {AGAIN}")
            batches += self._batches(shard)
        return batches

    def index(self) -> dict[str, Any]:
        """Rows, bytes and CRC-32 of each shard.

        Raises:
            UserError: the cache is unfinished, or its index is damaged.
        """
        there, total = sum(map(self.holds, self.shards)), len(self.shards)
        unfinished = (
            f"cache.path={self.path} is unfinished ({there} of {total} shards): run the codd cache command again"
        )
        shards = read_json(self.path / INDEX, unfinished).get("shards")
        named = isinstance(shards, dict) and all(is_entry(shards.get(shard.name)) for shard in self.shards)
        if not isinstance(shards, dict) or not named:
            raise UserError(f"{self.path / INDEX} does not give rows, bytes and crc32 of every shard: {AGAIN}")
        return shards

    def _remove_damaged(self) -> None:
        """Makes a finished cache with shards that are not what its index says an unfinished one without them."""
        try:
            index = self.index()
        except UserError:  # unfinished, or of an index that `finish` writes anew
            return
        damaged = [
            file
            for shard in self.shards
            if (file := self._file(shard)).is_file()
            and (file.stat().st_size != index[shard.name]["bytes"] or crc32(file) != index[shard.name]["crc32"])
        ]
        for file in damaged:
            file.unlink(missing_ok=True)  # another process may have done it
        if damaged:
            (self.path / INDEX).unlink(missing_ok=True)

    def _file(self, shard: Shard) -> Path:
        return self.path / shard.name

    def _batches(self, shard: Shard) -> Sequence[pa.RecordBatch]:
        file = self._file(shard)
        try:
            with pa.ipc.open_stream(pa.memory_map(str(file))) as stream:
                batches = list(stream)
                RowFormat.of_schema(stream.schema)
                return batches
        except (pa.ArrowInvalid, OSError, UserError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"{file} cannot be read ({reason}): {AGAIN}") from None
