"""Which examples make up which batch, in which epoch, on which rank."""

from collections.abc import Callable, Iterator
from itertools import islice

import torch
from torch.utils.data import Sampler

from codd_lightning.seeding import sample_generator


class EpochOrder(Sampler[int]):
    """The order of the examples in an epoch: shuffled by (seed, epoch), or as they are."""

    def __init__(self, size: int, seed: int, shuffle: bool) -> None:
        self._size, self._seed, self._shuffle = size, seed, shuffle
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by the trainer at the start of each epoch."""
        self._epoch = epoch

    def __iter__(self) -> Iterator[int]:
        if not self._shuffle:
            return iter(range(self._size))
        generator = sample_generator(self._seed, self._epoch, 0, "order")
        return iter(torch.randperm(self._size, generator=generator).tolist())

    def __len__(self) -> int:
        return self._size


class StoredOrder(Sampler[int]):
    """Places of an epoch's examples where several epochs are stored one after the other, each in its own order.

    Args:
        size: examples of an epoch.
        epochs: how many are gone through, again and again.
    """

    def __init__(self, size: int, epochs: int) -> None:
        self._size, self._epochs = size, epochs
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by the trainer at the start of each epoch."""
        self._epoch = epoch

    def __iter__(self) -> Iterator[int]:
        start = (self._epoch % self._epochs) * self._size
        return iter(range(start, start + self._size))

    def __len__(self) -> int:
        return self._size


class GlobalBatches(Sampler[list[int]]):
    """Batches of `batch_size` examples over all ranks; each rank gets its share of every batch.

    Args:
        sampler: the order of the examples.
        batch_size: the global one; must be divisible by `world_size`.
        rank, world_size: of this process.
        drop_last: leave out a last batch that is not full (so that every rank has work in training).
        done: asked when the first batch is: how many of the epoch's batches a stopped run had taken. They are skipped.
    """

    def __init__(
        self,
        sampler: EpochOrder | StoredOrder,
        batch_size: int,
        rank: int,
        world_size: int,
        drop_last: bool,
        done: Callable[[], int] = lambda: 0,
    ) -> None:
        self.sampler = sampler
        self.batch_size = batch_size
        self._rank, self._world_size, self._drop_last = rank, world_size, drop_last
        self._done = done

    def __iter__(self) -> Iterator[list[int]]:
        for batch in islice(self.opening(), self._done(), None):
            if len(batch) < self.batch_size and self._drop_last:
                return
            share = batch[self._rank :: self._world_size]
            if share:
                yield share

    def opening(self) -> Iterator[list[int]]:
        """The epoch's batches from the first, of all ranks together."""
        order = list(self.sampler)
        for start in range(0, len(order), self.batch_size):
            yield order[start : start + self.batch_size]

    def __len__(self) -> int:
        whole, rest = divmod(len(self.sampler), self.batch_size)
        return whole + (1 if rest > self._rank and not self._drop_last else 0)
