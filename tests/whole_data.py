"""Data modules that take whole tasks."""

from typing import Any

from transformers import PreTrainedTokenizerFast

from codd_lightning.data import TaskDataModule
from codd_lightning.tasks import Task

EOS = 1


def data_of(
    task: Task,
    words: PreTrainedTokenizerFast,
    block_length: int,
    max_response_tokens: int,
    batch_size: int = 2,
    max_prompt_tokens: int = 8,
    **options: Any,
) -> TaskDataModule:
    """All examples of a task."""
    return TaskDataModule(
        task,
        words,
        EOS,
        block_length=block_length,
        batch_size=batch_size,
        train_size=None,
        validation_size=None,
        test_size=None,
        max_prompt_tokens=max_prompt_tokens,
        max_response_tokens=max_response_tokens,
        **options,
    )
