"""Problems from JSONL or Parquet files, or from a dataset on the Hub."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from codd_lightning.errors import UserError
from codd_lightning.tasks.base import SPLITS, Example, Grade
from codd_lightning.tasks.graders import make_grader
from codd_lightning.tasks.readers import READERS, Fields
from codd_lightning.tasks.records import Record, is_file, read_records

# Without a validation file, each training row whose index is a multiple of this one is held out.
HELD_OUT_EVERY = 20


class FileTask:
    """Rows of files as problems, such as GSM8K's; no problem is in two splits.

    Args:
        train, validation, test: files (`.jsonl`, `.parquet`), or split names of `repo`. Without
            `validation`, one row in twenty of `train` is held out for it and not trained on.
        repo: a dataset on the Hub; None for local files.
        name: its configuration.
        reader: how a row becomes an example: pair, program, choice or chat.
        prompt_field, response_field: their names in a row.
        remove: regular expression; what matches is cut from responses (GSM8K's calculator notes).
        grader: how responses are graded: number, math, code or choice.
        grader_options: its own options.
        part_field: a field that holds a number which decides the split where one file holds several.
        parts: first and last number of each split.
        allow_overlap: do not refuse a problem that is in two splits.

    Raises:
        UserError: an option is wrong or does not fit another, a file or field is missing, a line is not JSON or has no
            answer, or splits share problems; names option, or file and line.
    """

    def __init__(
        self,
        train: str | None = None,
        validation: str | None = None,
        test: str | None = None,
        repo: str | None = None,
        name: str | None = None,
        reader: str = "pair",
        prompt_field: str = "prompt",
        response_field: str = "response",
        remove: str | None = None,
        grader: str = "number",
        grader_options: Mapping[str, Any] | None = None,
        part_field: str | None = None,
        parts: Mapping[str, Sequence[int]] | None = None,
        allow_overlap: bool = False,
    ) -> None:
        self._sources = {"train": train, "validation": validation, "test": test}
        self._repo, self._name = repo, name
        if reader not in READERS:
            raise UserError(f"data.task.reader={reader} is not one of {', '.join(READERS)}")
        self._reader = READERS[reader]
        self._fields = Fields(prompt_field, response_field)
        self._grader = make_grader(grader, grader_options or {})
        if self._grader.reader not in (None, reader):
            raise UserError(
                f"data.task.grader={grader} does not fit data.task.reader={reader}: it needs "
                f"data.task.reader={self._grader.reader}"
            )
        self._part_field, self._parts = part_field, parts or {}
        _require_parts(self._part_field, self._parts)
        self._allow_overlap = allow_overlap
        try:
            self._remove = re.compile(remove) if remove else None
        except re.error as error:
            raise UserError(f"data.task.remove={remove} is not a regular expression: {error}") from None
        self._splits: dict[str, list[Example]] | None = None
        for split, source in self._sources.items():
            if source is not None and is_file(source, repo) and not Path(source).is_file():
                mend = "give one" if split == "test" else f"give one, or data.task.{split}=null to go without"
                raise UserError(f"there is no data file at {source} (data.task.{split}): {mend}")

    def size(self, split: str) -> int:
        return len(self._load(split))

    def example(self, split: str, index: int, seed: int) -> Example:
        return self._load(split)[index]

    def grade(self, example: Example, response: str, ended: bool) -> Grade:
        return self._grader.grade(example, response, ended)

    def _load(self, split: str) -> list[Example]:
        if self._sources["train" if split == "validation" and not self._sources["validation"] else split] is None:
            trained = "; there is nothing to train on" if split == "train" else ""
            raise UserError(f"the data has no {split} split{trained}: give data.task.{split}")
        if self._splits is None:
            self._splits = self._read()
        return self._splits[split]

    def _read(self) -> dict[str, list[Example]]:
        splits = {split: self._examples(split, source) for split, source in self._sources.items() if source is not None}
        if not self._allow_overlap:
            self._require_disjoint(splits)
        if "train" in splits and "validation" not in splits:
            splits["validation"] = splits["train"][::HELD_OUT_EVERY]
            held_out = {_problem(example) for example in splits["validation"]}  # files may hold a problem twice
            splits["train"] = [example for example in splits["train"] if _problem(example) not in held_out]
            if not splits["train"]:
                raise UserError(
                    f"{self._sources['train']}: nothing is left to train on, since one row in {HELD_OUT_EVERY}, from "
                    "the first on, is held out for validation: add rows, or give data.task.validation"
                )
        return splits

    def _examples(self, split: str, source: str) -> list[Example]:
        records = read_records(source, self._repo, self._name)
        if not records:
            raise UserError(f"{source} holds no examples (data.task.{split})")
        if self._part_field is not None and split in self._parts:
            first, last = self._parts[split]
            records = [record for record in records if first <= record.get(self._part_field, int) <= last]
            if not records:
                raise UserError(
                    f"{source}: no row has {self._part_field} from {first} to {last} (data.task.parts.{split})"
                )
        return [self._example(record) for record in records]

    def _example(self, record: Record) -> Example:
        example = self._reader(record, self._fields)
        if self._remove is not None:
            example = dataclasses.replace(example, response=self._remove.sub("", example.response).strip())
        fault = self._grader.fault(example) if example.response else "the response is empty"
        if fault:
            raise UserError(f"{record.place}: {fault}: give the row an answer, or remove it")
        return example

    def _require_disjoint(self, splits: Mapping[str, list[Example]]) -> None:
        for one, other in combinations([split for split in SPLITS if split in splits], 2):
            known = {_problem(example) for example in splits[one]}
            shared = [example for example in splits[other] if _problem(example) in known]
            if shared:
                raise UserError(
                    f"{len(shared)} of {len(splits[other])} {other} problems are in the {one} split too, the first: "
                    f'"{_squeezed(shared[0].prompt)[:80]}"; remove them, or accept them with '
                    "data.task.allow_overlap=true"
                )


def _problem(example: Example) -> str:
    """What makes two problems the same: the prompt, spaces and case apart."""
    return _squeezed(example.prompt).casefold()


def _squeezed(text: str) -> str:
    return " ".join(text.split())


def _require_parts(part_field: str | None, parts: Mapping[str, Any]) -> None:
    """Refuses parts that are not two numbers each, in order, of a split."""
    if parts and part_field is None:
        raise UserError(
            f"data.task.parts={dict(parts)} needs data.task.part_field: give the field that decides the split"
        )
    for split, ends in parts.items():
        if split not in SPLITS:
            raise UserError(f"data.task.parts.{split} is of no split: give one of {', '.join(SPLITS)}")
        whole = not isinstance(ends, str) and isinstance(ends, Sequence) and [type(end) for end in ends] == [int, int]
        if not whole or ends[0] > ends[1]:
            raise UserError(f"data.task.parts.{split}={ends} must be two whole numbers, [first, last]")
