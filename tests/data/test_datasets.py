"""The shipped data choices, on local files with the fields of the real ones."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from codd_lightning.cli.build import make
from codd_lightning.cli.compose import choices, compose_experiment
from codd_lightning.errors import UserError
from codd_lightning.tasks import FileTask, Grade, Task

DATA = Path(__file__).parents[3] / "shared" / "data"


def gsm8k(i: int) -> dict[str, Any]:
    return {"question": f"question {i}", "answer": f"it is <<{i}={i}>>{i}\n#### {i}"}


def mathematics(i: int) -> dict[str, Any]:
    return {"problem": f"problem {i}", "solution": rf"so $\boxed{{{i}}}$", "answer": str(i)}


def program(i: int) -> dict[str, Any]:
    return {
        "task_id": i,
        "text": f"Give {i}.",
        "code": f"def give():\r\n    return {i}",
        "test_list": [f"assert give() == {i}"],
        "test_setup_code": "",
    }


def choice(i: int) -> dict[str, Any]:
    wrong = {f"Incorrect Answer {k}": f"wrong {k}" for k in (1, 2, 3)}
    return {"Question": f"question {i}", "Correct Answer": f"right {i}", **wrong, "Explanation": "it is so"}


def instruction(i: int) -> dict[str, Any]:
    return {"source": "somewhere", "instruction": f"instruction {i}", "output": f"The answer is {i}"}


def chat(i: int) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": f"say {i}"}, {"role": "assistant", "content": f"#### {i}"}]}


def pair(i: int) -> dict[str, Any]:
    return {"prompt": f"prompt {i}", "response": f"#### {i}"}


ROWS: dict[str, Callable[[int], dict[str, Any]]] = {
    "gsm8k": gsm8k,
    "math": mathematics,
    "math500": mathematics,
    "mbpp": program,
    "gpqa": choice,
    "math_instruct": instruction,
    "chat": chat,
    "jsonl": pair,
}
MEASURING_ONLY = ("math500", "gpqa")


def task_of(data: str, **files: Path) -> Task:
    """The task of a data choice from local files, as the command builds it."""
    overrides = [f"data.task.{split}={files.get(split, 'null')}" for split in ("train", "test")]
    overrides += [f"data.task.validation={files['validation']}"] if "validation" in files else []
    config = compose_experiment("smoke", [f"data={data}", "data.task.repo=null", *overrides])
    task: Task = make(config.data.task, Task, "data.task")
    return task


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_every_choice_that_reads_files_is_tested_here() -> None:
    reading = {
        name
        for name in choices()["data"]
        if compose_experiment("smoke", [f"data={name}"]).data.task._target_ == "codd_lightning.tasks.FileTask"
    }
    assert reading == set(ROWS)


@pytest.mark.parametrize("data", sorted(ROWS))
def test_local_files_take_the_place_of_the_hub(data: str, tmp_path: Path) -> None:
    row = ROWS[data]
    files = {"test": write(tmp_path / "test.jsonl", [row(i) for i in range(20, 30)])}
    if data == "mbpp":
        whole = write(tmp_path / "all.jsonl", [row(i) for i in range(1, 975)])
        files = {"train": whole, "validation": whole, "test": whole}
    elif data not in MEASURING_ONLY:
        files["train"] = write(tmp_path / "train.jsonl", [row(i) for i in range(100, 140)])
    task = task_of(data, **files)
    assert isinstance(task, FileTask)
    example = task.example("test", 3, 0)
    try:
        assert task.grade(example, example.response, ended=True) == Grade(strict=data != "math_instruct", flexible=True)
        assert task.grade(example, "", ended=True) == Grade(strict=False, flexible=False)
    except UserError as refusal:
        pytest.skip(str(refusal))
    sizes = {"mbpp": (374, 90, 500)}.get(data, (38, 2, 10))
    if data in MEASURING_ONLY:
        with pytest.raises(UserError, match=r"no train split.*nothing to train on"):
            task.size("train")
    else:
        assert tuple(task.size(split) for split in ("train", "validation", "test")) == sizes


@pytest.mark.parametrize("data", MEASURING_ONLY)
def test_data_for_measuring_is_never_trained_on_even_from_the_hub(data: str) -> None:
    config = compose_experiment("smoke", [f"data={data}"])
    with pytest.raises(UserError, match="no train split"):
        make(config.data.task, Task, "data.task").size("train")


def test_the_options_of_a_grader_are_set_by_key() -> None:
    config = compose_experiment("smoke", ["data=mbpp", "data.task.grader_options.sandbox=rlimits"])
    assert config.data.task.grader_options == {"sandbox": "rlimits", "seconds": 10, "memory_mib": 512}


@pytest.mark.skipif(not (DATA / "gsm8k_train.jsonl").is_file(), reason="needs GSM8K in ../shared/data")
def test_real_files_share_no_problem() -> None:
    task = task_of("gsm8k", train=DATA / "gsm8k_train.jsonl", test=DATA / "gsm8k_test.jsonl")
    assert [task.size(split) for split in ("train", "validation", "test")] == [7099, 374, 1319]


@pytest.mark.skipif(not (DATA / "mbpp.jsonl").is_file(), reason="needs MBPP in ../shared/data")
def test_the_single_file_of_mbpp_gives_its_official_splits() -> None:
    task = task_of("mbpp", **dict.fromkeys(("train", "validation", "test"), DATA / "mbpp.jsonl"))
    assert [task.size(split) for split in ("train", "validation", "test")] == [374, 90, 500]


@pytest.mark.skipif(not (DATA / "math500.jsonl").is_file(), reason="needs MATH-500 in ../shared/data")
def test_math500_is_read_by_its_choice() -> None:
    assert task_of("math500", test=DATA / "math500.jsonl").size("test") == 500
