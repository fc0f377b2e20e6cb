"""Which examples of a task reach the batches, and which settings are refused."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from codd_lightning.data import Batch, TaskDataModule
from codd_lightning.errors import UserError
from codd_lightning.tasks import Example, Grade

BLOCK = 4
SIZES: dict[str, Any] = {"train_size": None, "validation_size": None, "test_size": None}


def text(*numbers: int) -> str:
    return " ".join(f"w{i}" for i in numbers)


def rows(count: int, prompt: int = 2, response: int = 3) -> list[tuple[str, str]]:
    return [(text(*[i % 20] * prompt), text(*[i % 20] * response)) for i in range(count)]


class EndlessTask:
    """Example i answers with as many words as `lengths(i)` says."""

    def __init__(self, lengths: Callable[[int], int]) -> None:
        self.lengths = lengths

    def size(self, split: str) -> None:
        return None

    def example(self, split: str, index: int, seed: int) -> Example:
        return Example(text(index % 20), text(*[seed] * self.lengths(index)), index)

    def grade(self, example: Example, response: str, ended: bool) -> Grade:
        raise NotImplementedError


def module(task: Any, tokenizer: Any, **options: Any) -> TaskDataModule:
    given = {
        "block_length": BLOCK,
        "batch_size": 4,
        "max_prompt_tokens": 6,
        "max_response_tokens": 8,
        **SIZES,
        **options,
    }
    return TaskDataModule(task, tokenizer, 1, **given)


@pytest.mark.parametrize(("padding", "widths"), [("canvas", {8}), ("block", {4, 8})])
def test_responses_are_padded_with_eos_to_the_canvas_or_to_their_block(
    padding: str, widths: set[int], listed_task: Callable[..., Any], words: PreTrainedTokenizerFast
) -> None:
    task = listed_task(train=rows(4, response=2) + rows(4, response=6))
    dataset = module(task, words, response_padding=padding).dataset("train")
    assert {len(dataset[i].response) for i in range(len(dataset))} == widths
    for i in range(len(dataset)):
        written = 2 if i < 4 else 6
        assert set(dataset[i].response[written:]) == {1}
        assert 1 not in dataset[i].response[:written]


def test_examples_of_a_finite_split_that_are_too_long_are_left_out(
    listed_task: Callable[..., Any], words: PreTrainedTokenizerFast
) -> None:
    fits = rows(3)
    task = listed_task(train=[fits[0], *rows(1, prompt=7), fits[1], *rows(2, response=8), fits[2]])
    dataset = module(task, words).dataset("train")
    assert dataset.dropped == 3
    assert [dataset.example(i)[0] for i in range(len(dataset))] == [Example(*row) for row in fits]
    assert [dataset[i].index for i in range(3)] == [0, 2, 5]


def test_the_longest_allowed_example_fits(listed_task: Callable[..., Any], words: PreTrainedTokenizerFast) -> None:
    dataset = module(listed_task(train=rows(1, prompt=6, response=7)), words).dataset("train")
    assert (len(dataset), dataset.dropped, len(dataset[0].response)) == (1, 0, 8)


def test_a_size_takes_the_first_examples_that_fit(
    listed_task: Callable[..., Any], words: PreTrainedTokenizerFast
) -> None:
    task = listed_task(train=rows(1, response=9) + rows(9))
    dataset = module(task, words, train_size=4).dataset("train")
    assert [dataset[i].index for i in range(len(dataset))] == [1, 2, 3, 4]


def test_an_endless_task_replaces_what_is_too_long_by_later_examples(words: PreTrainedTokenizerFast) -> None:
    task = EndlessTask(lambda i: 9 if i in (1, 5, 6) else 3)  # 8 may be written, EOS included
    dataset = module(task, words, train_size=4).dataset("train")
    assert [dataset.example(i)[0].problem for i in range(4)] == [0, 9, 2, 3]
    assert len({dataset[i].index for i in range(4)}) == 4


def test_a_task_whose_examples_are_all_too_long_is_refused(
    listed_task: Callable[..., Any], words: PreTrainedTokenizerFast
) -> None:
    with pytest.raises(UserError, match=r"train.*max_prompt_tokens.*max_response_tokens"):
        module(EndlessTask(lambda i: 9), words, train_size=4).dataset("train")[0]
    with pytest.raises(UserError, match=r"test.*max_prompt_tokens.*max_response_tokens"):
        module(listed_task(test=rows(3, prompt=9)), words).dataset("test")


def test_the_seed_chooses_the_examples_of_an_endless_task(words: PreTrainedTokenizerFast) -> None:
    def example(seed: int) -> Example:
        return module(EndlessTask(lambda i: 2), words, train_size=2, seed=seed).dataset("train").example(0)[0]

    assert example(3).response == text(3, 3)
    assert example(4).response == text(4, 4)


@pytest.mark.parametrize("workers", [0, 1])
def test_batches_of_the_loaders_are_collated_examples(
    workers: int, listed_task: Callable[..., Any], words: PreTrainedTokenizerFast
) -> None:
    task = listed_task(train=rows(10), validation=rows(6), test=rows(5))
    data = module(task, words, num_workers=workers)
    loaders = {"train": data.train_dataloader(), "validation": data.val_dataloader(), "test": data.test_dataloader()}
    seen = {split: list(loader) for split, loader in loaders.items()}
    assert {split: [len(batch) for batch in batches] for split, batches in seen.items()} == {
        "train": [4, 4],  # the rest is left out, so that every step has a whole batch
        "validation": [4, 2],
        "test": [4, 1],
    }
    assert all(isinstance(batch, Batch) for batch in seen["train"])
    assert torch.cat([batch.index for batch in seen["test"]]).tolist() == list(range(5))
    first = seen["test"][0]
    dataset = data.dataset("test")
    assert first.input_ids.tolist() == [dataset[i].prompt + dataset[i].response for i in range(4)]


def test_prompts_are_padded_with_the_pad_token_or_with_eos(
    listed_task: Callable[..., Any], words: PreTrainedTokenizerFast
) -> None:
    data = module(listed_task(test=rows(1, prompt=1) + rows(1, prompt=2)), words)
    assert int(data.collate([data.dataset("test")[0], data.dataset("test")[1]]).input_ids[0, 0]) == words.pad_token_id
    words.pad_token = None
    assert int(data.collate([data.dataset("test")[0], data.dataset("test")[1]]).input_ids[0, 0]) == 1


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"max_response_tokens": 10}, ["max_response_tokens=10", "4-token"]),
        ({"response_padding": "blocks"}, ["response_padding=blocks", "canvas", "block"]),
    ],
)
def test_settings_that_do_not_fit_are_refused(
    options: dict[str, Any], names: list[str], listed_task: Callable[..., Any], words: PreTrainedTokenizerFast
) -> None:
    with pytest.raises(UserError) as refusal:
        module(listed_task(train=rows(4)), words, **options)
    assert all(name in str(refusal.value) for name in names)


def test_a_missing_tokenizer_is_refused(listed_task: Callable[..., Any]) -> None:
    with pytest.raises(UserError, match="tokenizer"):
        module(listed_task(train=rows(4)), None)


def test_an_endless_split_without_a_size_is_refused(words: PreTrainedTokenizerFast) -> None:
    with pytest.raises(UserError, match=r"data\.test_size"):
        module(EndlessTask(lambda i: 2), words, train_size=4).dataset("test")


def test_a_batch_of_more_than_all_examples_is_refused(
    listed_task: Callable[..., Any], words: PreTrainedTokenizerFast
) -> None:
    with pytest.raises(UserError, match=r"data\.batch_size=4.*3 examples"):
        module(listed_task(train=rows(3)), words).train_dataloader()


def test_a_batch_that_does_not_divide_by_the_processes_is_refused(
    listed_task: Callable[..., Any], words: PreTrainedTokenizerFast
) -> None:
    class FourProcesses:
        global_rank, world_size = 0, 4

    data = module(listed_task(train=rows(12)), words, batch_size=6)
    data.trainer = FourProcesses()  # type: ignore[assignment]  # all that a loader asks of a trainer
    with pytest.raises(UserError, match=r"data\.batch_size=6.*4 processes"):
        data.train_dataloader()
