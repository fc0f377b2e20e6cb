"""Finished runs under a folder: what they measured, how they were set up, and what they decoded."""

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

import yaml

from codd_lightning.evaluation.rows import MEASURED, SCHEMA, Row
from codd_lightning.evaluation.samples import LABELS

# What of a configuration says where a run goes or how it is shown.
NOT_OF_THE_RUN = ("output_dir", "overwrite", "description", "experiment_name", "trainer.progress_bar")
LARGEST = 1e300
OF_YAML = (LookupError, TypeError, AttributeError, OverflowError)  # at values such as `!!bool x`
DEEPEST = 64  # of what is read: no run of ours nests a tenth of it
# What rows may say of a setting and its cost, in numbers.
NUMBERS = ("nfe", "seconds_per_sample", "tpf", "gamma", "tau", "commit_bound")
Record = dict[str, Any]
Key = tuple[Any, ...]


@dataclass(frozen=True)
class Run:
    """One finished run.

    Attributes:
        name: its folder below the one that was searched.
        experiment: whose run it is.
        seconds: that it took.
        parameters: of backbone and circuit.
        config: its resolved configuration, dotted keys.
        rows: what it measured.
        samples: what it decoded, by setting; empty where it kept none.
    """

    name: str
    experiment: str
    seconds: float
    parameters: dict[str, int]
    config: dict[str, Any]
    rows: list[Row]
    samples: dict[Key, list[Record]]


class _NotARunError(Exception):
    """Why a folder is left out."""


class _PlainLoader(yaml.SafeLoader):
    """YAML's plain values without aliases: a few of them can stand for endlessly many values, or for themselves."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError(f"it has an alias, line {self.peek_event().start_mark.line + 1}: write it out")
        return super().compose_node(parent, index)


def collect(outputs: Path, leave_out: Path) -> tuple[list[Run], list[str]]:
    """All finished runs below a folder, by name, and a line for each folder that looks like a run but is none.

    Nothing that is read is executed: JSON, and YAML's plain values. Hidden folders are not looked into.

    Args:
        outputs: the folder.
        leave_out: a folder in it that holds no runs: the report's own.
    """
    runs, warnings = [], []
    for folder in _candidates(outputs, leave_out):
        name = _printable(str(folder.relative_to(outputs) if folder != outputs else folder.resolve().name))
        try:
            run, complaints = _read(folder, name)
        except _NotARunError as reason:
            warnings.append(f"{name} is left out: {reason}")
        else:
            runs.append(run)
            warnings += complaints
    return runs, warnings


def by_task(runs: Sequence[Run]) -> list[list[Run]]:
    """Runs on the same task together."""
    tasks: dict[str, list[Run]] = {}
    for run in runs:
        task = {key: value for key, value in run.config.items() if key.startswith("data.task.")}
        tasks.setdefault(repr(task), []).append(run)
    return list(tasks.values())


def sample_key(labels: Row | Record) -> Key:
    """What tells the samples of one setting from others: the same for a row and its samples."""
    values = [labels.get(name) for name in LABELS]
    return tuple(json.dumps(value) if isinstance(value, list | dict) else value for value in values)


def differing_settings(runs: Sequence[Run]) -> list[str]:
    """The configuration's keys that are not the same in all runs, in their order."""
    keys = dict.fromkeys(key for run in runs for key in run.config)
    return [
        key
        for key in keys
        if key not in NOT_OF_THE_RUN and len({json.dumps(run.config.get(key), default=str) for run in runs}) > 1
    ]


def _candidates(outputs: Path, leave_out: Path) -> Iterator[Path]:
    for folder, inside, files in os.walk(outputs):
        path = Path(folder)
        inside[:] = sorted(name for name in inside if not name.startswith(".") and path / name != leave_out)
        if "results.json" in files or {"config.yaml", "manifest.json"} <= set(files):
            yield path


def _read(folder: Path, name: str) -> tuple[Run, list[str]]:
    if not (folder / "results.json").exists():
        raise _NotARunError("unfinished, it has no results.json")
    for part in ("config.yaml", "manifest.json"):
        if not (folder / part).exists():
            raise _NotARunError(f"its results.json is not of a run, there is no {part}")
    results = _mapping(folder / "results.json")
    manifest = _mapping(folder / "manifest.json")
    config = _mapping(folder / "config.yaml")
    again = manifest.get("measured_again")
    for options in again if isinstance(again, list) else []:  # what the figures of results.json were measured with
        if isinstance(options, dict):
            config = {**config, **{part: options[part] for part in MEASURED if part in options}}
    if results.get("schema") != SCHEMA:
        raise _NotARunError(f"results.json has schema {results.get('schema')!r}, not {SCHEMA}")
    if results.get("status") != "completed":
        raise _NotARunError(f"results.json has status {results.get('status')!r}, not 'completed'")
    seconds, parameters = results.get("seconds"), results.get("parameters")
    if not _is_number(seconds) or seconds < 0:
        raise _NotARunError(f"results.json: seconds is {_short(seconds)}, not a number from 0")
    if not isinstance(parameters, dict):
        raise _NotARunError(f"results.json: parameters is {_short(parameters)}, not a mapping")
    for part, size in parameters.items():
        if not _is_number(size):
            raise _NotARunError(f"results.json: parameters.{part} is {_short(size)}, not a number")
    samples, complaints = _samples(folder / "samples.jsonl", name)
    run = Run(
        name=name,
        experiment=str(results.get("experiment")),
        seconds=float(seconds),
        parameters={part: int(size) for part, size in parameters.items()},
        config=dict(_flat(config)),
        rows=_rows(results.get("metrics")),
        samples=samples,
    )
    return run, complaints


def _mapping(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
        values = _printable(json.loads(text) if path.suffix == ".json" else yaml.load(text, _PlainLoader))
    except (OSError, ValueError, yaml.YAMLError, RecursionError, *OF_YAML) as error:
        raise _NotARunError(f"{path.name} cannot be read ({' '.join(str(error).split())[:120]})") from None
    if not isinstance(values, dict):
        raise _NotARunError(f"{path.name} is not a mapping")
    return values


def _rows(metrics: Any) -> list[Row]:
    if not isinstance(metrics, list):
        raise _NotARunError("results.json has no list of metrics")
    for number, row in enumerate(metrics):
        fault = _fault(row)
        if fault:
            raise _NotARunError(f"results.json, metrics[{number}]: {fault}")
    return metrics


def _fault(row: Any) -> str | None:
    """What a row lacks; None if it is whole."""
    if not isinstance(row, dict):
        return "not a mapping"
    for label in ("name", "unit", "split"):
        if not isinstance(row.get(label), str):
            return f"{label} is {_short(row.get(label))}, not a text"
    for label in ("value", "low", "high", "n"):
        if not _is_number(row.get(label)):
            return f"{label} is {_short(row.get(label))}, not a number"
    if row["low"] > row["high"]:
        return f"low is {row['low']!r}, above high, {row['high']!r}"
    for label in NUMBERS:
        if label in row and not _is_number(row[label]):
            return f"{label} is {_short(row[label])}, not a number"
    for label in ("decoder", "commit", "commit_reads"):
        if label in row and not isinstance(row[label], str):
            return f"{label} is {_short(row[label])}, not a text"
    ratio = row.get("mask_ratio")
    if ratio is not None and not (isinstance(ratio, list) and len(ratio) == 2 and all(map(_is_number, ratio))):
        return f"mask_ratio is {_short(ratio)}, not two numbers"
    if "steps_per_block" in row and not _is_budget(row["steps_per_block"]):
        return f"steps_per_block is {_short(row['steps_per_block'])}, not a whole number from 1"
    return None


def _short(value: Any) -> str:
    said = repr(value)
    return said if len(said) <= 60 else f"{said[:60]}…"


def _is_budget(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and -LARGEST < value < LARGEST  # NaN is not


def _samples(path: Path, run: str) -> tuple[dict[Key, list[Record]], list[str]]:
    """Samples by setting, in the order of their problems; none of a file with a wrong line, which is named."""
    if not path.exists():
        return {}, []
    found: dict[Key, list[Record]] = {}
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, ValueError) as error:
        return {}, [f"{run}: its samples are left out: samples.jsonl cannot be read ({error})"]
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            record = _printable(json.loads(line))
        except (ValueError, RecursionError):
            record = None
        if not _is_sample(record):
            return {}, [f"{run}: its samples are left out: samples.jsonl, line {number} is not a sample"]
        found.setdefault(sample_key(record), []).append(record)
    return {key: sorted(records, key=lambda record: record["index"]) for key, records in found.items()}, []


def _is_sample(record: Any) -> bool:
    if not isinstance(record, dict):
        return False
    texts = all(isinstance(record.get(name), str) for name in ("decoder", "prompt", "target", "response"))
    grades = all(isinstance(record.get(name), bool) for name in ("strict", "flexible"))
    pieces = record.get("pieces")
    whole = isinstance(pieces, list) and all(isinstance(piece, str) for piece in pieces)
    numbers = isinstance(record.get("index"), int) and _is_budget(record.get("steps_per_block"))
    return texts and grades and whole and numbers


def _flat(config: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in config.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _printable(value: Any, depth: int = 0) -> Any:
    """The same, fit to be written out: keys are texts, and half a surrogate pair in a text becomes a question mark.

    Raises:
        ValueError: it is nested too deep, or holds a number too large.
    """
    if depth > DEEPEST:
        raise ValueError(f"nested more than {DEEPEST} deep")
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, list):
        return [_printable(item, depth + 1) for item in value]
    if isinstance(value, dict):
        return {_printable(str(key)): _printable(item, depth + 1) for key, item in value.items()}
    if isinstance(value, int) and abs(value) > LARGEST:
        raise ValueError("a whole number of more than 300 digits")
    return value
