"""Prompt and response pairs from JSONL or Parquet files, or from a dataset on the Hub."""

import json
import re
from pathlib import Path
from typing import Any

from codd_lightning.errors import UserError
from codd_lightning.tasks.base import Example, Grade, last_number

# Without a validation file, each training row whose index is a multiple of this one is held out.
HELD_OUT_EVERY = 20


class FileTask:
    """Rows of files with a prompt and a response, such as GSM8K's.

    Args:
        train, validation, test: files (`.jsonl`, `.parquet`), or split names of `repo`. Without
            `validation`, one row in twenty of `train` is held out for it and not trained on.
        repo: a dataset on the Hub; None for local files.
        name: its configuration.
        prompt_field, response_field: their names in a row.
        remove: regular expression; what matches is cut from responses (GSM8K's calculator notes).

    Raises:
        UserError: a file or field is missing, or a line is not JSON; names file and line.
    """

    def __init__(
        self,
        train: str | None = None,
        validation: str | None = None,
        test: str | None = None,
        repo: str | None = None,
        name: str | None = None,
        prompt_field: str = "prompt",
        response_field: str = "response",
        remove: str | None = None,
    ) -> None:
        self._sources = {"train": train, "validation": validation, "test": test}
        self._repo, self._name = repo, name
        self._fields = (prompt_field, response_field)
        try:
            self._remove = re.compile(remove) if remove else None
        except re.error as error:
            raise UserError(f"data.task.remove={remove} is not a regular expression: {error}") from None
        self._rows: dict[str, list[Example]] = {}
        for source in self._sources.values():
            if source is not None and repo is None and not Path(source).is_file():
                raise UserError(f"there is no data file at {source}")

    def size(self, split: str) -> int:
        return len(self._load(split))

    def example(self, split: str, index: int, seed: int) -> Example:
        return self._load(split)[index]

    def grade(self, example: Example, response: str, ended: bool) -> Grade:
        """Strict: the number after `####` is the reference's, and EOS; flexible: the last number is."""
        reference = example.response.rsplit("####", 1)[-1].strip()
        expected = last_number(reference)
        parts = response.split("####")
        if expected is None:  # an answer in words
            strict, flexible = parts[-1].strip() == reference, reference in response
        else:
            strict, flexible = last_number(parts[-1]) == expected, last_number(response) == expected
        return Grade(strict=ended and len(parts) == 2 and strict, flexible=flexible)

    def _load(self, split: str) -> list[Example]:
        if split not in self._rows:
            held_out = self._sources["validation"] is None
            source = self._sources["train" if split == "validation" and held_out else split]
            if source is None:
                raise UserError(f"the data has no {split} split: give data.task.{split}")
            rows = self._read(source)
            if held_out and split == "train":
                rows = [row for i, row in enumerate(rows) if i % HELD_OUT_EVERY]
            elif held_out and split == "validation":
                rows = rows[::HELD_OUT_EVERY]
            self._rows[split] = rows
        return self._rows[split]

    def _read(self, source: str) -> list[Example]:
        if self._repo is not None:
            return self._read_hub(source)
        path = Path(source)
        if path.suffix == ".parquet":
            import datasets

            try:
                rows = datasets.Dataset.from_parquet(str(path))
            except (OSError, ValueError, RuntimeError) as error:
                raise UserError(f"{path} is not a whole Parquet file: {str(error).splitlines()[0]}") from None
            return [self._example(row, f"{path}, row {i}") for i, row in enumerate(rows)]
        return [self._example(row, place) for place, row in read_jsonl(path)]

    def _read_hub(self, split: str) -> list[Example]:
        import datasets

        try:
            rows = datasets.load_dataset(self._repo, self._name, split=split)
        except (OSError, ValueError, RuntimeError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"the Hub did not give dataset {self._repo}, split {split}: {reason}") from None
        return [self._example(row, f"{self._repo}, {split} row {i}") for i, row in enumerate(rows)]

    def _example(self, row: Any, place: str) -> Example:
        for field in self._fields:
            if not isinstance(row, dict) or field not in row:
                raise UserError(f'{place}: field "{field}" is missing')
            if not isinstance(row[field], str):
                raise UserError(f'{place}: field "{field}" is {type(row[field]).__name__}, not text')
        prompt, response = (row[field] for field in self._fields)
        if self._remove is not None:
            response = self._remove.sub("", response)
        return Example(prompt.strip(), response.strip())


def read_jsonl(path: Path) -> list[tuple[str, Any]]:
    """The rows of a JSONL file, each with its place: `FILE, line N`.

    Raises:
        UserError: it is empty or not UTF-8, or a line is not JSON.
    """
    try:
        lines = path.read_text(encoding="utf-8").rstrip().split("\n")  # other line separators occur in texts
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text: {error}") from None
    if lines == [""]:
        raise UserError(f"{path} holds no examples")
    places = [f"{path}, line {i}" for i in range(1, len(lines) + 1)]
    return [(place, _parse(line, place)) for place, line in zip(places, lines, strict=True)]


def _parse(line: str, place: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{place}: not JSON: {error}") from None
