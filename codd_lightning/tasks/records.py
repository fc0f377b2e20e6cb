"""Rows of JSONL and Parquet files and of datasets on the Hub."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from codd_lightning.errors import UserError

FILE_KINDS = (".jsonl", ".parquet")


@dataclass(frozen=True)
class Record:
    """One row, and where it was found.

    Attributes:
        values: what was read; a mapping unless the file is wrong.
        place: file and line, for messages.
    """

    values: Any
    place: str

    def get(self, field: str, kind: type) -> Any:
        """A field's value.

        Raises:
            UserError: it is missing or not of this kind.
        """
        if not isinstance(self.values, dict) or field not in self.values:
            raise UserError(f'{self.place}: field "{field}" is missing')
        value = self.values[field]
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            wanted = {str: "text", list: "a list", int: "a whole number", dict: "a mapping"}[kind]
            raise UserError(f'{self.place}: field "{field}" is {type(value).__name__}, not {wanted}')
        return value

    def text(self, field: str) -> str:
        """A text, with plain line ends."""
        text: str = self.get(field, str)
        return text.replace("\r\n", "\n")


def is_file(source: str, repo: str | None) -> bool:
    """Whether a source is a local file, and not a split of a dataset on the Hub."""
    return repo is None or Path(source).suffix in FILE_KINDS


def read_records(source: str, repo: str | None, name: str | None) -> list[Record]:
    """All rows of a file, or of a split of a dataset on the Hub.

    Args:
        source: a file's path, or the name of a split.
        repo: a dataset on the Hub; None for files.
        name: its configuration.

    Raises:
        UserError: it cannot be read; names file and line, or how to get access.
    """
    if not is_file(source, repo):
        assert repo is not None
        return _read_hub(repo, name, source)
    path = Path(source)
    return _read_parquet(path) if path.suffix == ".parquet" else read_jsonl(path)


def _read_parquet(path: Path) -> list[Record]:
    import datasets

    try:
        rows = datasets.Dataset.from_parquet(str(path))
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(f"{path} is not a whole Parquet file: {_first_line(error)}") from None
    return [Record(row, f"{path}, row {i}") for i, row in enumerate(rows)]


def read_jsonl(path: Path) -> list[Record]:
    """The rows of a JSONL file.

    Raises:
        UserError: it is empty or not UTF-8, or a line is not JSON.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").rstrip().split("\n")  # other line separators occur in texts
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text: {error}") from None
    if lines == [""]:
        raise UserError(f"{path} holds no examples")
    return [Record(_parse(line, f"{path}, line {i}"), f"{path}, line {i}") for i, line in enumerate(lines, 1)]


def _read_hub(repo: str, name: str | None, split: str) -> list[Record]:
    import datasets

    try:
        rows = datasets.load_dataset(repo, name, split=split)
    except (OSError, ValueError, RuntimeError) as error:
        reason = _first_line(error)
        mend = "; for files of your own: data.task.repo=null and data.task.train, .test=FILE"
        if "gated" in reason.lower():
            mend = f"; accept its terms at https://huggingface.co/datasets/{repo}, then run: hf auth login"
        raise UserError(f"the Hub did not give dataset {repo}, split {split}: {reason}{mend}") from None
    return [Record(row, f"{repo}, {split} row {i}") for i, row in enumerate(rows)]


def _parse(line: str, place: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{place}: not JSON: {error}") from None


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
