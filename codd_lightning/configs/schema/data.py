"""What every data choice has, and the tasks."""

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from codd_lightning.configs.schema.fields import ranged


@dataclass
class Template:
    """How a problem is put to the backbone."""

    text: str = "{prompt}"
    system: str | None = None
    chat: bool = True


@dataclass
class Data:
    """What every data choice has."""

    task: Any = MISSING
    block_length: int = ranged(32, minimum=1)
    batch_size: int = ranged(48, minimum=1)
    train_size: int | None = ranged(None, minimum=1)
    validation_size: int | None = ranged(None, minimum=1)
    test_size: int | None = ranged(None, minimum=1)
    max_prompt_tokens: int = ranged(512, minimum=1)
    max_response_tokens: int = ranged(256, minimum=1)
    response_padding: str = "canvas"
    num_workers: int = ranged(0, minimum=0)
    template: str = "plain"
    templates: dict[str, Any] = field(default_factory=dict)  # name: Template


@dataclass
class ParallelBench(Data):
    """A clone of ParallelBench, by its path; what a choice has beside the common options goes to its task."""

    path: str = MISSING


@dataclass
class WordedSumsTask:
    """Our own generator of worded arithmetic problems."""

    _target_: str = "codd_lightning.tasks.WordedSums"
    min_steps: int = ranged(2, minimum=1, maximum=4)
    max_steps: int = ranged(3, minimum=1, maximum=4)


@dataclass
class ListTask:
    """Lists, all right answers of which are known."""

    _target_: str = "codd_lightning.tasks.ListTask"
    kind: str = "permutation"
    items: int = ranged(4, minimum=2)
    varies: bool = False
    pool: int = ranged(8, minimum=2, maximum=16)


@dataclass
class ReasoningGymTask:
    """Any dataset of reasoning-gym."""

    _target_: str = "codd_lightning.tasks.ReasoningGymTask"
    dataset: str = MISSING
    options: dict[str, Any] = field(default_factory=dict)


@dataclass
class FileTask:
    """JSONL or Parquet files, or a dataset on the Hub."""

    _target_: str = "codd_lightning.tasks.FileTask"
    train: str | None = None
    validation: str | None = None
    test: str | None = None
    repo: str | None = None
    name: str | None = None
    reader: str = "pair"
    prompt_field: str = "prompt"
    response_field: str = "response"
    remove: str | None = None
    grader: str = "number"
    grader_options: dict[str, Any] = field(default_factory=dict)
    part_field: str | None = None
    parts: dict[str, list[int]] = field(default_factory=dict)
    allow_overlap: bool = False


@dataclass
class ParallelBenchTask:
    """The rule-based tasks of a ParallelBench clone; all of them, or those named in `subtasks`."""

    _target_: str = "codd_lightning.tasks.ParallelBenchTask"
    subtasks: list[str] | None = None
