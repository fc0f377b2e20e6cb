"""Decoded samples: what is kept of each, and the files that they are kept in while an evaluation runs."""

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from codd_lightning.errors import UserError
from codd_lightning.tasks import Example, Grade

# What tells one setting of an evaluation from another, in this order.
LABELS = (
    "template",
    "decoder",
    "remasking",
    "eos",
    "commit",
    "commit_bound",
    "commit_reads",
    "gamma",
    "tau",
    "steps_per_block",
)
# What every sample has beside them.
FIELDS = ("index", "response", "pieces", "tokens", "nfe", "circuit_calls", "seconds", "ended", "strict", "flexible")
Key = tuple[Any, ...]


@dataclass(frozen=True)
class Sample:
    """One decoded response and its grades.

    Attributes:
        index: the problem's place among those of the split.
        labels: of the setting: decoder, remasking, eos, steps_per_block, the commit rule where it is no quota, and
            template where there are several.
        example: the problem.
        text: the response without its EOS.
        pieces: the response token by token, EOS included.
        grade: of the response.
        ended: whether it closes with an EOS.
        tokens: its length from after the prompt up to and including EOS.
        nfe: backbone forward passes.
        circuit_calls: conditional distributions asked of the circuit.
        seconds: wall-clock time of its batch, shared evenly.
        log_likelihood: nats, by the backbone one token at a time; None where nobody asked.
    """

    index: int
    labels: dict[str, Any]
    example: Example
    text: str
    pieces: list[str]
    grade: Grade
    ended: bool
    tokens: int
    nfe: int
    circuit_calls: int
    seconds: float
    log_likelihood: float | None = None

    @property
    def key(self) -> Key:
        """What no other sample of an evaluation has."""
        return key_of({**self.labels, "index": self.index})

    def record(self) -> dict[str, Any]:
        """As one JSON object."""
        return {
            "index": self.index,
            **self.labels,
            "prompt": self.example.prompt,
            "target": self.example.response,
            "response": self.text,
            "pieces": self.pieces,
            "tokens": self.tokens,
            "nfe": self.nfe,
            "circuit_calls": self.circuit_calls,
            "seconds": round(self.seconds, 6),
            "ended": self.ended,
            "strict": self.grade.strict,
            "flexible": self.grade.flexible,
            **({} if self.log_likelihood is None else {"log_likelihood": round(self.log_likelihood, 6)}),
        }

    @classmethod
    def of_record(cls, record: dict[str, Any], example: Example) -> "Sample":
        """From its JSON object and its problem."""
        return cls(
            index=record["index"],
            labels={name: record[name] for name in LABELS if name in record},
            example=example,
            text=record["response"],
            grade=Grade(record["strict"], record["flexible"]),
            log_likelihood=record.get("log_likelihood"),
            **{name: record[name] for name in ("pieces", "ended", "tokens", "nfe", "circuit_calls", "seconds")},
        )


def key_of(values: dict[str, Any]) -> Key:
    """The values that name a sample, in a fixed order."""
    return tuple(values.get(name) for name in (*LABELS, "index"))


class Store(Protocol):
    """Where finished samples are kept."""

    def finished(self) -> dict[Key, dict[str, Any]]:
        """Every finished sample as its JSON object."""
        ...

    def add(self, samples: Sequence[Sample]) -> None:
        """Keeps the samples of one batch."""
        ...


class InMemory:
    """For evaluations that are over in seconds."""

    def __init__(self) -> None:
        self._records: dict[Key, dict[str, Any]] = {}

    def finished(self) -> dict[Key, dict[str, Any]]:
        return dict(self._records)

    def add(self, samples: Sequence[Sample]) -> None:
        self._records.update({sample.key: sample.record() for sample in samples})


class SampleFolder:
    """A JSONL file for each process, so that what was decoded outlives a kill and no two write to one file.

    Args:
        path: of the folder; made where it is missing.
        rank: of this process.
    """

    def __init__(self, path: Path, rank: int = 0) -> None:
        self.path = path
        self._mine = path / f"rank_{rank:04d}.jsonl"
        path.mkdir(parents=True, exist_ok=True)
        _cut_torn_line(self._mine)

    def finished(self) -> dict[Key, dict[str, Any]]:
        found: dict[Key, dict[str, Any]] = {}
        for file in sorted(self.path.glob("rank_*.jsonl")):
            for record in _records(file):
                found[key_of(record)] = record
        return found

    def add(self, samples: Sequence[Sample]) -> None:
        with self._mine.open("a") as file:
            file.write("".join(json.dumps(sample.record()) + "\n" for sample in samples))
            file.flush()
            os.fsync(file.fileno())


def write_samples(path: Path, records: Iterable[dict[str, Any]]) -> None:
    """Writes samples as JSON lines beside their place and moves them there."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with beside.open("w") as file:
        file.writelines(json.dumps(record) + "\n" for record in records)
    os.replace(beside, path)


def _records(file: Path) -> Iterable[dict[str, Any]]:
    lines = file.read_bytes().split(b"\n")[:-1]  # what follows the last newline was being written
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            record = None
        if not isinstance(record, dict) or not set(FIELDS) <= set(record):
            raise UserError(f"{file}, line {number} is not a sample: delete the line, and it is decoded again")
        yield record


def _cut_torn_line(file: Path) -> None:
    """Removes a last line that a kill left half written, so that the next one starts a line."""
    if not file.exists():
        return
    content = file.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        with file.open("r+b") as torn:
            torn.truncate(whole)
