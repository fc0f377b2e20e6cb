"""Prompt and response pairs from files."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from codd_lightning.errors import UserError
from codd_lightning.tasks import Example, FileTask, Grade

GSM8K = Path(__file__).parents[3] / "shared" / "data"
CALCULATOR = "<<[^>]*>>"


def row(i: int) -> dict[str, Any]:
    return {"prompt": f" question {i}? ", "response": f"a reason\n#### {i} "}


def jsonl(path: Path, rows: list[Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def prompts(task: FileTask, split: str) -> list[str]:
    return [task.example(split, i, 0).prompt for i in range(task.size(split))]


def test_rows_of_a_file_are_examples_in_their_order(tmp_path: Path) -> None:
    task = FileTask(test=jsonl(tmp_path / "test.jsonl", [row(i) for i in range(5)]))
    assert task.size("test") == 5
    assert [task.example("test", i, 0) for i in range(5)] == [
        Example(f"question {i}?", f"a reason\n#### {i}") for i in range(5)
    ]


def test_parquet_holds_the_same_as_jsonl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    rows = [row(i) for i in range(30)]
    datasets.Dataset.from_list(rows).to_parquet(tmp_path / "train.parquet")
    from_parquet = FileTask(train=str(tmp_path / "train.parquet"))
    from_jsonl = FileTask(train=jsonl(tmp_path / "train.jsonl", rows))
    for split in ("train", "validation"):
        assert prompts(from_parquet, split) == prompts(from_jsonl, split)
        assert from_parquet.example(split, 1, 0) == from_jsonl.example(split, 1, 0)


def test_other_field_names_may_be_given(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "rows.jsonl", [{"question": "q", "answer": "a", "prompt": "no"}])
    assert FileTask(test=path, prompt_field="question", response_field="answer").example("test", 0, 0) == Example(
        "q", "a"
    )


def test_what_the_pattern_matches_is_cut_from_responses_alone(tmp_path: Path) -> None:
    path = jsonl(
        tmp_path / "rows.jsonl", [{"prompt": "what is <<1+2=3>>?", "response": "1+2=<<1+2=3>>3, <<>>so\n#### 3"}]
    )
    example = FileTask(test=path, remove=CALCULATOR).example("test", 0, 0)
    assert (example.prompt, example.response) == ("what is <<1+2=3>>?", "1+2=3, so\n#### 3")


def test_held_out_validation_is_disjoint_from_training_and_takes_one_row_in_twenty(tmp_path: Path) -> None:
    train = jsonl(tmp_path / "train.jsonl", [row(i) for i in range(61)])
    task = FileTask(train=train, test=train)
    training, validation = prompts(task, "train"), prompts(task, "validation")
    assert not set(training) & set(validation)
    assert len(validation) == 4
    assert sorted(training + validation) == sorted(prompts(task, "test"))


def test_a_validation_file_leaves_all_of_the_training_file(tmp_path: Path) -> None:
    train = jsonl(tmp_path / "train.jsonl", [row(i) for i in range(40)])
    task = FileTask(train=train, validation=jsonl(tmp_path / "validation.jsonl", [row(i) for i in range(100, 103)]))
    assert task.size("train") == 40
    assert prompts(task, "validation") == [f"question {i}?" for i in range(100, 103)]


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("{", "not JSON"),
        ("", "not JSON"),
        ('{"prompt": "p"}', 'field "response" is missing'),
        ('{"response": "p"}', 'field "prompt" is missing'),
        ('["prompt", "response"]', 'field "prompt" is missing'),
        ('{"prompt": "p", "response": 3}', 'field "response" is int, not text'),
        ('{"prompt": null, "response": "r"}', 'field "prompt" is NoneType, not text'),
        ("[" * 100_000, "not JSON"),
    ],
    ids=range(8),
)
def test_a_bad_line_is_refused_by_file_line_and_field(line: str, complaint: str, tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    path.write_text(f"{json.dumps(row(0))}\n{json.dumps(row(1))}\n{line}\n{json.dumps(row(3))}\n")
    with pytest.raises(UserError) as refusal:
        FileTask(test=str(path)).size("test")
    assert str(refusal.value).startswith(f"{path}, line 3: {complaint}")
    assert "\n" not in str(refusal.value)


def test_a_missing_file_is_refused_at_construction(tmp_path: Path) -> None:
    path = tmp_path / "nothing.jsonl"
    with pytest.raises(UserError, match=re.escape(str(path))):
        FileTask(train=str(path))


def test_a_split_that_was_not_given_is_refused_by_name(tmp_path: Path) -> None:
    task = FileTask(train=jsonl(tmp_path / "train.jsonl", [row(0), row(1)]))
    with pytest.raises(UserError, match="test"):
        task.size("test")
    with pytest.raises(UserError, match="validation"):
        FileTask(test=jsonl(tmp_path / "test.jsonl", [row(0)])).size("validation")


REFERENCE = Example("how many?", "a reason\n#### 1,234")


@pytest.mark.parametrize(
    ("response", "ended", "grade"),
    [
        ("so\n#### 1,234", True, Grade(True, True)),
        ("so\n#### 1234", True, Grade(True, True)),
        ("#### $1234.00", True, Grade(True, True)),
        ("so\n#### 1234", False, Grade(False, True)),
        ("it is 1234", True, Grade(False, True)),
        ("#### 1233", True, Grade(False, False)),
        ("#### 1234\n#### 1234", True, Grade(False, True)),
        ("1234\n####", True, Grade(False, True)),
        ("#### many", True, Grade(False, False)),
        ("", True, Grade(False, False)),
    ],
)
def test_strict_grades_look_behind_the_mark_and_flexible_ones_at_the_last_number(
    response: str, ended: bool, grade: Grade, tmp_path: Path
) -> None:
    assert FileTask().grade(REFERENCE, response, ended) == grade


def test_no_number_is_not_the_right_number() -> None:
    wordy = Example("which colour?", "a reason\n#### red")
    assert not FileTask().grade(wordy, "I do not know", ended=True).flexible
    assert not FileTask().grade(wordy, "#### blue", ended=True).strict


@pytest.mark.skipif(not (GSM8K / "gsm8k_train.jsonl").is_file(), reason="needs GSM8K in ../shared/data")
def test_gsm8k_is_read_graded_and_held_out() -> None:
    task = FileTask(
        train=str(GSM8K / "gsm8k_train.jsonl"),
        test=str(GSM8K / "gsm8k_test.jsonl"),
        prompt_field="question",
        response_field="answer",
        remove=CALCULATOR,
    )
    sizes = [task.size(split) for split in ("train", "validation", "test")]
    assert sizes == [7473 - 374, 374, 1319]
    for split in ("train", "validation", "test"):
        for i in range(0, task.size(split), 29):
            example = task.example(split, i, 0)
            assert "<<" not in example.response
            number = example.response.split("####")[1].strip().replace(",", "")
            assert task.grade(example, example.response, ended=True) == Grade(True, True)
            assert task.grade(example, f"#### {int(number) + 1}", ended=True) == Grade(False, False)
    assert not set(prompts(task, "train")) & set(prompts(task, "validation"))
    assert not set(prompts(task, "train")) & set(prompts(task, "test"))
