"""The LightningDataModule over any task."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import lightning as L
import torch
from torch.utils.data import DataLoader, Dataset

from codd_lightning.data.encoding import Batch, Encoded, collate, encode
from codd_lightning.data.sampler import EpochOrder, GlobalBatches, StoredOrder
from codd_lightning.data.templates import Template
from codd_lightning.errors import UserError
from codd_lightning.tasks import Example, Task

# How many further examples of an endless task may stand in for one that is too long.
MOST_REPLACEMENTS = 100
RESPONSE_PADDINGS = ("canvas", "block")


class EncodedDataset(Dataset[Encoded]):
    """The first `size` examples of a split that fit the length limits, encoded when asked for.

    An endless task replaces an example that is too long by a later one; a finite one drops it.

    Args:
        task: where examples come from.
        split: train, validation or test.
        size: how many; None for all of a finite split.
        seed: of generated examples.
        encode_example: from example and index to token ids.
        fits: whether an encoded example is short enough.
        encode_prompt: from a problem and a template's name to token ids.

    Attributes:
        dropped: how many examples of a finite split were too long.
    """

    def __init__(
        self,
        task: Task,
        split: str,
        size: int | None,
        seed: int,
        encode_example: Callable[[Example, int], Encoded],
        fits: Callable[[Encoded], bool],
        encode_prompt: Callable[[Example, str], list[int]],
    ) -> None:
        self._task, self._split, self._seed = task, split, seed
        self._encode, self._fits, self._encode_prompt = encode_example, fits, encode_prompt
        self.dropped = 0
        available = task.size(split)
        if available is None:
            if size is None:
                raise UserError(f"data.{split}_size is needed: the task generates examples without end")
            self._indices: Sequence[int] = range(size)
            self._endless = True
        else:
            fitting = [i for i in range(available) if fits(self._encode(task.example(split, i, seed), i))]
            self.dropped = available - len(fitting)
            if size is not None and size > len(fitting):
                raise UserError(
                    f"data.{split}_size={size} is more than the {len(fitting)} examples of the {split} split that fit"
                )
            self._indices = fitting[:size]
            self._endless = False
            if not fitting:
                raise UserError(f"no {split} example fits data.max_prompt_tokens and data.max_response_tokens")

    def example(self, position: int) -> tuple[Example, Encoded]:
        """The example and its token ids."""
        index = self._indices[position]
        for replacement in range(MOST_REPLACEMENTS if self._endless else 1):
            example = self._task.example(self._split, index + replacement * len(self._indices), self._seed)
            encoded = self._encode(example, index)
            if not self._endless or self._fits(encoded):
                return example, encoded
        raise UserError(
            f"{MOST_REPLACEMENTS} examples of the {self._split} split in a row are longer than "
            "data.max_prompt_tokens and data.max_response_tokens allow"
        )

    def numbered(self, index: int) -> tuple[Example, Encoded]:
        """The example that has a number in its split, as batches name it."""
        return self.example(self._indices.index(index))

    def prompt(self, position: int, template: str | None = None) -> list[int]:
        """Token ids of a problem under another template; the one of training if None."""
        example, encoded = self.example(position)
        return encoded.prompt if template is None else self._encode_prompt(example, template)

    def __getitem__(self, position: int) -> Encoded:
        return self.example(position)[1]

    def __len__(self) -> int:
        return len(self._indices)


class EpochLoader(DataLoader[Any]):
    """Asks its sampler when the first batch is wanted, not before: only then are epoch and place in it restored.

    Its worker processes draw their seeds from a generator of its own, so that a run that goes on in the middle of an
    epoch, and starts them again, leaves the default generator as an undisturbed run does.
    """

    def __init__(self, dataset: Dataset[Any], num_workers: int, **options: Any) -> None:
        super().__init__(
            dataset,
            num_workers=num_workers,
            persistent_workers=num_workers > 0,
            generator=torch.Generator().manual_seed(0),
            **options,
        )

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]  # what collate makes of the examples
        yield from super().__iter__()

    def opening(self) -> Iterator[Any]:
        """Batches of the present epoch from its first, of all ranks together, whatever has been taken of it."""
        assert isinstance(self.batch_sampler, GlobalBatches), "as `global_loader` makes it"
        for places in self.batch_sampler.opening():
            many = getattr(self.dataset, "__getitems__", None)
            yield self.collate_fn([self.dataset[place] for place in places] if many is None else many(places))


def global_loader(
    module: L.LightningDataModule,
    dataset: Dataset[Any],
    order: EpochOrder | StoredOrder,
    batch_size: int,
    training: bool,
    collate_fn: Callable[[Any], Any],
    num_workers: int,
) -> DataLoader[Any]:
    """A loader of this process's share of every batch.

    Args:
        module: whose trainer knows the processes.
        dataset: what is loaded.
        order: of its items.
        batch_size: over all processes together.
        training: whether a last batch that is not full is left out.
        collate_fn: from what the dataset gives to a batch.
        num_workers: processes that load.

    Raises:
        UserError: the batch size does not fit the processes or the training examples.
    """
    rank, world_size = (module.trainer.global_rank, module.trainer.world_size) if module.trainer else (0, 1)
    if batch_size % world_size:
        raise UserError(
            f"data.batch_size={batch_size} is the global batch and does not divide by {world_size} processes"
        )
    if training and len(order) < batch_size:
        raise UserError(f"data.batch_size={batch_size} is more than the {len(order)} examples of the train split")
    done = partial(_batches_done, module.trainer) if training else lambda: 0
    batches = GlobalBatches(order, batch_size, rank, world_size, drop_last=training, done=done)
    return EpochLoader(dataset, num_workers, batch_sampler=batches, collate_fn=collate_fn)


def _batches_done(trainer: L.Trainer | None) -> int:
    """Training batches that the trainer has taken of the present epoch, before this start of the run too."""
    if trainer is None or not trainer.training:
        return 0
    return trainer.fit_loop.epoch_loop.batch_progress.current.ready


class TaskDataModule(L.LightningDataModule):
    """Batches of a task's examples, as token ids of a backbone's tokenizer.

    Args:
        task: the problems.
        tokenizer: of the backbone.
        eos_token_id: what closes a response.
        block_length: responses become whole blocks of this length.
        batch_size: over all ranks together.
        train_size, validation_size, test_size: examples per split; None for all there are.
        max_prompt_tokens, max_response_tokens: longer examples are left out; the latter is a whole
            number of blocks, and what decoding may generate.
        response_padding: "canvas" fills every response with EOS to `max_response_tokens`, which is what
            decoding starts from; "block" fills its last block only.
        seed: of generated examples and of the order in each epoch.
        num_workers: processes that encode examples.
        template: how problems are put: the name of one of `templates`.
        templates: further templates by name; "plain" is the bare problem.

    Raises:
        UserError: the tokenizer is missing, there is no such template, or the sizes do not fit together.
    """

    def __init__(
        self,
        task: Task,
        tokenizer: Any,
        eos_token_id: int,
        *,
        block_length: int,
        batch_size: int,
        train_size: int | None,
        validation_size: int | None,
        test_size: int | None,
        max_prompt_tokens: int,
        max_response_tokens: int,
        response_padding: str = "canvas",
        seed: int = 0,
        num_workers: int = 0,
        template: str = "plain",
        templates: Mapping[str, Template] | None = None,
    ) -> None:
        super().__init__()
        if tokenizer is None:
            raise UserError("the backbone has no tokenizer, so text cannot be turned into tokens")
        if max_response_tokens % block_length:
            raise UserError(
                f"data.max_response_tokens={max_response_tokens} is not a whole number of "
                f"{block_length}-token blocks (data.block_length)"
            )
        if response_padding not in RESPONSE_PADDINGS:
            raise UserError(f"data.response_padding={response_padding} is not one of {', '.join(RESPONSE_PADDINGS)}")
        self.response_length = max_response_tokens if response_padding == "canvas" else None
        self.task = task
        self.tokenizer = tokenizer
        self.eos_token_id = eos_token_id
        self.block_length = block_length
        self.batch_size = batch_size
        self.sizes = {"train": train_size, "validation": validation_size, "test": test_size}
        self.max_prompt_tokens = max_prompt_tokens
        self.max_response_tokens = max_response_tokens
        self.seed = seed
        self.num_workers = num_workers
        self.templates = {"plain": Template(), **(templates or {})}
        self.template = self._template(template)
        self._datasets: dict[str, EncodedDataset] = {}

    @property
    def pad_token_id(self) -> int:
        """What fills the canvas where nothing is attended to."""
        pad = self.tokenizer.pad_token_id
        return self.eos_token_id if pad is None else pad

    def dataset(self, split: str) -> EncodedDataset:
        """The encoded examples of a split, made on first use."""
        if split not in self._datasets:
            encode_example = partial(
                encode,
                tokenizer=self.tokenizer,
                eos_token_id=self.eos_token_id,
                block_length=self.block_length,
                response_length=self.response_length,
                template=self.template,
            )
            self._datasets[split] = EncodedDataset(
                self.task, split, self.sizes[split], self.seed, encode_example, self._fits, self._encode_prompt
            )
        return self._datasets[split]

    def collate(self, rows: Sequence[Encoded]) -> Batch:
        """Rows on one canvas."""
        return collate(rows, self.pad_token_id)

    def train_dataloader(self) -> DataLoader[Encoded]:
        return self._dataloader("train", shuffle=True)

    def val_dataloader(self) -> DataLoader[Encoded]:
        return self._dataloader("validation", shuffle=False)

    def test_dataloader(self) -> DataLoader[Encoded]:
        return self._dataloader("test", shuffle=False)

    def _dataloader(self, split: str, shuffle: bool) -> DataLoader[Encoded]:
        dataset = self.dataset(split)
        order = EpochOrder(len(dataset), self.seed, shuffle)
        return global_loader(self, dataset, order, self.batch_size, shuffle, self.collate, self.num_workers)

    def _encode_prompt(self, example: Example, template: str) -> list[int]:
        return self._template(template).encode(example, self.tokenizer)

    def _template(self, name: str) -> Template:
        if name not in self.templates:
            raise UserError(f"data.template={name} is not one of {', '.join(self.templates)}")
        return self.templates[name]

    def _fits(self, encoded: Encoded) -> bool:
        return len(encoded.prompt) <= self.max_prompt_tokens and len(encoded.response) <= self.max_response_tokens
