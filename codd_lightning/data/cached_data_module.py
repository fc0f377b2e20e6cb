"""The LightningDataModule over an evidence cache."""

from collections.abc import Sequence
from typing import Any

import lightning as L
import numpy as np
import pyarrow as pa
from torch.utils.data import DataLoader, Dataset

from codd_lightning.data.blocks import Blocks
from codd_lightning.data.cache_folder import CacheFolder
from codd_lightning.data.data_module import global_loader
from codd_lightning.data.evidence_cache import RowFormat
from codd_lightning.data.sampler import StoredOrder
from codd_lightning.errors import UserError


class CachedSplit(Dataset[Blocks]):
    """The stored blocks of a split, by the places of their examples: epoch · examples + position in its order.

    Every process maps the files by itself, when it first reads; every byte is checked once, before training.

    Args:
        folder: of the cache.
        split: train or validation.
    """

    def __init__(self, folder: CacheFolder, split: str) -> None:
        self._folder, self._split = folder, split
        self.examples, self.epochs = folder.examples[split], folder.epochs[split]
        self._batches: list[pa.RecordBatch] | None = None
        batches = self._mapped(check=True)
        schema = batches[0].schema
        self.format = RowFormat.of_schema(schema)
        places = np.concatenate(
            [batch["epoch"].to_numpy().astype(np.int64) * self.examples + batch["position"] for batch in batches]
        )
        if (np.diff(places) < 0).any() or (len(places) and places[-1] >= self.examples * self.epochs):
            raise UserError(f"cache.path={folder.path}: the rows of {split} are out of order: write it again")
        self._counts = np.bincount(places, minlength=self.examples * self.epochs)
        self._first = np.concatenate([[0], self._counts.cumsum()])  # row of each place
        self._starts = np.concatenate([[0], np.cumsum([len(batch) for batch in batches])])  # row of each record batch

    def __len__(self) -> int:
        return self.examples * self.epochs

    def __getitems__(self, places: Sequence[int]) -> Blocks:
        """The blocks of some examples, in ascending places, as one batch."""
        chosen = np.asarray(places)
        start, stop = self._first[chosen[0]], self._first[chosen[-1] + 1]
        table = self._slice(int(start), int(stop))
        rows = [np.arange(self._first[place], self._first[place + 1]) for place in places]
        if len(places) != chosen[-1] - chosen[0] + 1:  # a share of the batch
            table = table.take(pa.array(np.concatenate(rows) - start))
        row = np.repeat(np.arange(len(places)), self._counts[chosen])
        return self.format.blocks(table, row, len(places))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_batches": None}

    def _mapped(self, check: bool = False) -> list[pa.RecordBatch]:
        if self._batches is None:
            self._batches = self._folder.read(self._split, check)
        return self._batches

    def _slice(self, start: int, stop: int) -> pa.Table:
        batches = self._mapped()
        first = max(int(np.searchsorted(self._starts, start, side="right")) - 1, 0)
        last = int(np.searchsorted(self._starts, stop, side="left"))
        parts = []
        for number in range(first, last):
            offset = int(self._starts[number])
            low, high = max(start - offset, 0), min(stop - offset, len(batches[number]))
            parts.append(batches[number].slice(low, high - low))
        return pa.Table.from_batches(parts, schema=batches[0].schema)


class CachedDataModule(L.LightningDataModule):
    """Batches of stored blocks: those that training on the fly would make, in the same order.

    Args:
        folder: of the cache.
        batch_size: examples over all ranks together.
        epochs: of stored noise that are gone through, again and again if training is longer; None for all.
        num_workers: processes that read.

    Raises:
        UserError: the cache is unfinished or damaged.
    """

    def __init__(self, folder: CacheFolder, batch_size: int, epochs: int | None = None, num_workers: int = 0) -> None:
        super().__init__()
        self.folder = folder
        self._batch_size, self._num_workers = batch_size, num_workers
        self._splits = {split: CachedSplit(folder, split) for split in folder.examples}
        self._epochs = {**folder.epochs, **({} if epochs is None else {"train": epochs})}

    def train_dataloader(self) -> DataLoader[Any]:
        return self._dataloader("train", training=True)

    def val_dataloader(self) -> DataLoader[Any]:
        return self._dataloader("validation", training=False)

    def _dataloader(self, split: str, training: bool) -> DataLoader[Any]:
        order = StoredOrder(self.folder.examples[split], self._epochs[split])
        dataset = self._splits[split]
        return global_loader(self, dataset, order, self._batch_size, training, _as_it_is, self._num_workers)


def _as_it_is(blocks: Blocks) -> Blocks:
    return blocks
