"""lm-eval's requests as this project works on them: named, batched by length, and what each of them took."""

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from codd_lightning.seeding import sample_generator

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Request:
    """One request with a name of its own, so that its draws are the same in every batch and process.

    Attributes:
        instance: as lm-eval gave it.
        repeat: how many times the same was asked before.
    """

    instance: Any
    repeat: int

    @property
    def task(self) -> str:
        return str(self.instance.task_name)

    @property
    def doc_id(self) -> int:
        """The problem's place in its task."""
        return self.instance.doc_id or 0

    def generator(self, seed: int, purpose: str) -> torch.Generator:
        """Of its draws for one purpose."""
        name = f"lm-eval {purpose} {self.task} {self.instance.idx} {self.instance.args[0]}"
        return sample_generator(seed, self.repeat, self.doc_id, name)


def named(instances: Sequence[Any]) -> list[Request]:
    """A request for each instance of lm-eval, in its order.

    An instance that comes more often than its task repeats it is lm-eval's padding, by which all processes have
    equally many: it is the last of its requests again, and need not be worked on.
    """
    seen: Counter[int] = Counter()
    last: dict[int, Request] = {}
    found = []
    for instance in instances:
        key = id(instance)
        if seen[key] < (instance.repeats or 1):
            last[key] = Request(instance, seen[key])
        seen[key] += 1
        found.append(last[key])
    return found


def batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Consecutive items, `size` at a time."""
    iterator = iter(items)
    while batch := list(itertools.islice(iterator, size)):
        yield batch


def cut(text: str, stops: Sequence[str]) -> str:
    """A text up to the first place where one of the stop strings begins."""
    places = [place for stop in stops if stop and (place := text.find(stop)) >= 0]
    return text[: min(places, default=len(text))]


@dataclass(frozen=True)
class Cost:
    """What one decoded sample took.

    Attributes:
        task: its name.
        doc_id: the problem's place in it.
        tokens: of the response, up to and including EOS.
        nfe: backbone forward passes.
        circuit_calls: conditional distributions asked of the circuit.
        seconds: wall-clock time of its batch, shared evenly.
    """

    task: str
    doc_id: int
    tokens: int
    nfe: int
    circuit_calls: int
    seconds: float


def summary(costs: Sequence[Cost]) -> dict[str, dict[str, float]]:
    """Means over the samples of each task; `tpf` is tokens per forward pass."""
    found = {}
    for task in dict.fromkeys(cost.task for cost in costs):
        here = [cost for cost in costs if cost.task == task]
        found[task] = {
            "samples": len(here),
            "nfe": sum(cost.nfe for cost in here) / len(here),
            "tpf": sum(cost.tokens for cost in here) / sum(cost.nfe for cost in here),
            "tokens": sum(cost.tokens for cost in here) / len(here),
            "circuit_calls": sum(cost.circuit_calls for cost in here) / len(here),
            "seconds_per_sample": round(sum(cost.seconds for cost in here) / len(here), 6),
        }
    return found
