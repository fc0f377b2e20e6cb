"""The rule-based tasks of ParallelBench (arXiv 2510.04767), read from a clone of the user's own."""

import itertools
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from codd_lightning.errors import UserError
from codd_lightning.tasks.answers import Answer
from codd_lightning.tasks.base import Example, Grade
from codd_lightning.tasks.parallelbench_rules import RULES, Problem, exact_digits, exact_list, grade
from codd_lightning.tasks.records import read_jsonl

CONFIG = "task_config.yaml"
# What the text tasks are graded by: a grammar checker and models of their own, which are not part of this project.
TEXT_METRICS = ("grammar_score", "paraphrase_score", "sentence_to_words_score", "startwith_score", "summary_score")
BLANKS = "0_."
_FIELD = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True)
class Subtask:
    """One entry of a `task_config.yaml`: its prompt, with `{field}`s of a row's input, its metric, and its rows."""

    name: str
    prompt: str
    metric: str
    rows: Path
    config: Path


class ParallelBenchTask:
    """Test problems of a ParallelBench clone, one of each subtask in turn, graded by our own rules.

    Args:
        path: the clone, or a folder in it that holds the `task_config.yaml`s and JSONL files of the test split.
        subtasks: which, as the configuration names them (`waiting_line/copy`); None for all that rules can grade.

    Raises:
        UserError: nothing of the benchmark is there; a subtask is unknown, has no rows or no rule; a row is not in
            the format, or its own answer is not right by our rule. Names file and line.
    """

    def __init__(self, path: str, subtasks: Sequence[str] | None = None) -> None:
        there = _subtasks(Path(path))
        if subtasks is None:
            chosen = [subtask for subtask in there.values() if subtask.metric in RULES and subtask.rows.is_file()]
        else:
            chosen = [_chosen(name, there) for name in subtasks]
        if not chosen:
            raise UserError(
                f"{path} holds no JSONL file of a task that rules can grade: the first releases of ParallelBench bring "
                "theirs along, later ones write them with their own generator"
            )
        examples = [_examples(subtask) for subtask in chosen]
        # in turn, so that the first examples are of every subtask
        self._examples = [one for row in itertools.zip_longest(*examples) for one in row if one is not None]

    def size(self, split: str) -> int:
        return len(self._of(split))

    def example(self, split: str, index: int, seed: int) -> Example:
        return self._of(split)[index]

    def grade(self, example: Example, response: str, ended: bool) -> Grade:
        """Strict: a right answer in the expected form, nothing else, and EOS; flexible: the last answer is right."""
        return grade(example.problem, response, ended)

    def _of(self, split: str) -> list[Example]:
        if split != "test":
            raise UserError(f"ParallelBench has no {split} split: it measures, with codd evaluate, and trains nothing")
        return self._examples


def _subtasks(folder: Path) -> dict[str, Subtask]:
    """Every subtask of the test split that is configured under a folder."""
    if not folder.is_dir():
        raise UserError(f"there is no folder at data.path={folder}")
    found: dict[str, Subtask] = {}
    for file in sorted(folder.rglob(CONFIG)):
        if "train" in file.relative_to(folder).parts:
            continue
        for name, options in _configured(file).items():
            if name in found:
                raise UserError(
                    f"{name} is both in {found[name].config} and {file}: give one of their folders as data.path"
                )
            rows = file.with_name(f"{name.rsplit('/', 1)[-1]}.jsonl")
            found[name] = Subtask(name, options["prompt"], options["metric"], rows, file)
    if not found:
        raise UserError(f"there is no {CONFIG} under data.path={folder}: is it a clone of ParallelBench with its data?")
    return found


def _configured(file: Path) -> dict[str, Any]:
    try:
        tasks = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: not valid YAML: {str(error).splitlines()[0]}") from None
    if not isinstance(tasks, dict) or not all(isinstance(name, str) for name in tasks):
        raise UserError(f"{file} does not map names of tasks to their options")
    for name, options in tasks.items():
        for option in ("prompt", "metric"):
            if not isinstance(options, dict) or not isinstance(options.get(option), str):
                raise UserError(f'{file}: task {name} has no text "{option}"')
    return tasks


def _chosen(name: str, there: Mapping[str, Subtask]) -> Subtask:
    """A subtask by its name."""
    gradable = ", ".join(sorted(known for known, subtask in there.items() if subtask.metric in RULES))
    if name not in there:
        raise UserError(f"data.task.subtasks: there is no {name}; there are: {gradable}")
    subtask = there[name]
    if subtask.metric in TEXT_METRICS:
        raise UserError(
            f"data.task.subtasks: {name} is a text task ({subtask.metric}), which needs LanguageTool or BERTScore; "
            f"graded here are: {gradable}"
        )
    if subtask.metric not in RULES:
        raise UserError(f"data.task.subtasks: there is no rule for {subtask.metric} of {name}; graded are: {gradable}")
    if not subtask.rows.is_file():
        raise UserError(f"data.task.subtasks: {name} has no file at {subtask.rows}")
    return subtask


def _examples(subtask: Subtask) -> list[Example]:
    examples = []
    for record in read_jsonl(subtask.rows):
        place, row = record.place, record.values
        if not isinstance(row, dict):
            raise UserError(f"{place}: not a JSON object")
        start = _field(row, "input", dict, place)
        answer = _field(row, "answer", (str, list, dict), place)
        response = _reference(answer, place)
        problem = _problem(subtask, start, answer, place)
        if not grade(problem, response, ended=True).strict:
            raise UserError(f"{place}: its own answer {response!r} is not right by our rule for {subtask.metric}")
        turns = []
        for worked in start.get("icl_examples") or []:
            before = _field(worked, "input", dict, place)
            reply = _reference(_field(worked, "answer", (str, list, dict), place), place)
            turns.append((_filled(subtask, before, place), reply))
        examples.append(Example(_filled(subtask, start, place), response, problem, tuple(turns)))
    return examples


def _problem(subtask: Subtask, start: Mapping[str, Any], answer: Any, place: str) -> Problem:
    metric, word = subtask.metric, ""
    if metric == "list_match_score":
        given = tuple(answer) if isinstance(answer, list) else exact_list(answer) if isinstance(answer, str) else None
        if given is None:
            raise UserError(f'{place}: "answer" is not a list of texts')
    elif metric == "sudoku_score":
        given = _puzzle(start, place)
    else:
        field = "symbols" if metric == "latin_square_score" else "input"
        given = tuple(_field(answer, field, list, place))
        if metric in ("list_random_insert_score", "list_random_replace_score"):
            word = _field(answer, "word", str, place)
    if not all(isinstance(item, str) for item in given):
        raise UserError(f"{place}: {list(given)} are not all texts")
    return Problem(subtask.name, metric, given, word)


def _puzzle(start: Mapping[str, Any], place: str) -> Answer:
    """The given digits, "" where none is."""
    for text in start.values():
        if isinstance(text, str) and (size := len(text.strip().split("\n"))) > 1:
            cells = exact_digits(text, size)
            if cells is not None and math.isqrt(size) ** 2 == size:
                return tuple("" if cell in BLANKS else cell for cell in cells)
    raise UserError(f'{place}: "input" holds no square of digits')


def _reference(answer: Any, place: str) -> str:
    """An answer as the text that a model should write."""
    if isinstance(answer, dict):
        answer = _field(answer, "example", (str, list), place)
    return answer if isinstance(answer, str) else json.dumps(answer, ensure_ascii=False)


def _filled(subtask: Subtask, start: Mapping[str, Any], place: str) -> str:
    """The prompt of a problem. Only plain `{field}`s are filled; a written-out `\\n` is a new line."""
    fields = {name for name in _FIELD.findall(subtask.prompt) if name not in start}
    if fields:
        raise UserError(f'{place}: the prompt of {subtask.name} needs "{min(fields)}", which "input" does not have')
    template = subtask.prompt.replace("\\n", "\n")
    return _FIELD.sub(lambda match: str(start[match[1]]), template)


def _field(row: Any, name: str, kind: type | tuple[type, ...], place: str) -> Any:
    if not isinstance(row, dict) or name not in row:
        raise UserError(f'{place}: field "{name}" is missing')
    if not isinstance(row[name], kind):
        raise UserError(f'{place}: field "{name}" is {type(row[name]).__name__}, which is not its format')
    return row[name]
