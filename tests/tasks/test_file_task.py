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
    task = FileTask(train=train)
    training, validation = prompts(task, "train"), prompts(task, "validation")
    assert not set(training) & set(validation)
    assert len(validation) == 4
    assert sorted(training + validation) == sorted(prompts(FileTask(test=train), "test"))


def test_a_validation_file_leaves_all_of_the_training_file(tmp_path: Path) -> None:
    train = jsonl(tmp_path / "train.jsonl", [row(i) for i in range(40)])
    task = FileTask(train=train, validation=jsonl(tmp_path / "validation.jsonl", [row(i) for i in range(100, 103)]))
    assert task.size("train") == 40
    assert prompts(task, "validation") == [f"question {i}?" for i in range(100, 103)]


def test_a_problem_that_stands_twice_in_the_training_file_is_not_held_out_and_trained_on(tmp_path: Path) -> None:
    train = jsonl(tmp_path / "train.jsonl", [row(i % 30) for i in range(60)])
    task = FileTask(train=train)
    training, validation = set(prompts(task, "train")), set(prompts(task, "validation"))
    assert validation == {"question 0?", "question 20?", "question 10?"}
    assert training | validation == {f"question {i}?" for i in range(30)}
    assert not training & validation


@pytest.mark.parametrize(
    ("split", "other"), [("train", "validation"), ("train", "test"), ("validation", "test")], ids=str
)
def test_problems_in_two_splits_are_refused_with_their_number_and_the_first(
    split: str, other: str, tmp_path: Path
) -> None:
    files = {
        name: jsonl(tmp_path / f"{name}.jsonl", [row(100 * i + j) for j in range(5)])
        for i, name in enumerate(("train", "validation", "test"))
    }
    assert FileTask(**files).size("train") == 5  # type: ignore[arg-type]  # file names only
    shared = [{**row(j), "prompt": f"question\n {j}?"} for j in (501, 502)]
    for name in (split, other):
        with Path(files[name]).open("a") as file:
            file.writelines(json.dumps(line) + "\n" for line in shared)
    for asked in files:
        with pytest.raises(UserError) as refusal:
            FileTask(**files).size(asked)  # type: ignore[arg-type]
        for word in ("2 of 7", split, other, '"question 501?"', "data.task.allow_overlap=true"):
            assert word in str(refusal.value)
    assert FileTask(**files, allow_overlap=True).size(split) == 7  # type: ignore[arg-type]


def test_a_field_decides_the_split_where_one_file_holds_several(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "all.jsonl", [{**row(i), "number": i} for i in range(10)])
    parts = {"train": [6, 9], "validation": [5, 5], "test": [1, 4]}
    task = FileTask(train=path, validation=path, test=path, part_field="number", parts=parts)
    assert {split: task.size(split) for split in parts} == {"train": 4, "validation": 1, "test": 4}
    assert prompts(task, "test") == [f"question {i}?" for i in range(1, 5)]
    with pytest.raises(UserError, match=r"number.*20.*30.*data\.task\.parts\.test"):
        FileTask(test=path, part_field="number", parts={"test": [20, 30]}).size("test")
    with pytest.raises(UserError, match=r'line 1: field "task_id" is missing'):
        FileTask(test=path, part_field="task_id", parts={"test": [1, 2]}).size("test")


@pytest.mark.parametrize(
    "parts",
    [{"test": [0]}, {"test": [1, 2, 3]}, {"test": "12"}, {"test": [1.5, 2]}, {"test": [True, 2]}, {"test": [4, 1]},
     {"tests": [1, 4]}, {"test": 3}],
    ids=str,
)  # fmt: skip
def test_parts_that_are_not_two_whole_numbers_of_a_split_are_refused_at_construction(parts: dict[str, Any]) -> None:
    ((split, ends),) = parts.items()
    with pytest.raises(UserError, match=rf"data\.task\.parts\.{split}") as refusal:
        FileTask(part_field="number", parts=parts)
    assert str(ends) in str(refusal.value) or split == "tests"


def test_parts_without_their_field_are_refused() -> None:
    with pytest.raises(UserError, match=r"data\.task\.parts=.*needs data\.task\.part_field"):
        FileTask(parts={"test": [1, 4]})


def test_a_boolean_is_no_number(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "rows.jsonl", [{**row(1), "number": True}])
    with pytest.raises(UserError, match=r'line 1: field "number" is bool, not a whole number'):
        FileTask(test=path, part_field="number", parts={"test": [1, 4]}).size("test")


@pytest.mark.parametrize("count", [1, 3])
def test_a_training_file_of_which_all_is_held_out_is_refused(count: int, tmp_path: Path) -> None:
    train = jsonl(tmp_path / "train.jsonl", [row(0)] * count)
    with pytest.raises(UserError, match=rf"^{re.escape(train)}: nothing is left to train on.*data\.task\.validation"):
        FileTask(train=train).size("train")


@pytest.mark.parametrize(
    ("response", "options"),
    [
        ("  ", {}),
        ("", {"grader": "math"}),
        ("a reason\n####  ", {}),
        ("<<1=1>>", {"remove": CALCULATOR}),
        ("#### <<1=1>>", {"remove": CALCULATOR}),
        (r"so it is \boxed{ }", {"grader": "math"}),
    ],
)
def test_a_row_without_an_answer_is_refused_by_file_and_line(
    response: str, options: dict[str, Any], tmp_path: Path
) -> None:
    path = jsonl(tmp_path / "test.jsonl", [row(0), {"prompt": "p", "response": response}])
    with pytest.raises(UserError, match=rf"^{re.escape(path)}, line 2: .*(empty|nothing stands)"):
        FileTask(test=path, **options).size("test")


@pytest.mark.parametrize("response", ["", "#### ", "a\n####"])
@pytest.mark.parametrize("reference", ["", "a\n####"])
def test_nothing_is_not_the_right_answer(reference: str, response: str) -> None:
    assert FileTask().grade(Example("?", reference), response, True) == Grade(False, False)


@pytest.mark.parametrize(
    ("grader", "reader"), [("choice", "pair"), ("code", "pair"), ("code", "chat"), ("choice", "program")]
)
def test_a_grader_that_does_not_fit_the_reader_is_refused(grader: str, reader: str) -> None:
    with pytest.raises(UserError, match=rf"data\.task\.grader={grader} does not fit data\.task\.reader={reader}"):
        FileTask(grader=grader, reader=reader)


def test_a_mark_of_byte_order_is_read_over(tmp_path: Path) -> None:
    path = tmp_path / "test.jsonl"
    path.write_text(json.dumps(row(3)) + "\n", encoding="utf-8-sig")
    assert prompts(FileTask(test=str(path)), "test") == ["question 3?"]


def test_a_problem_in_other_case_is_the_same_problem(tmp_path: Path) -> None:
    files = {split: jsonl(tmp_path / f"{split}.jsonl", [row(i), row(5)]) for i, split in enumerate(("train", "test"))}
    Path(files["test"]).write_text(json.dumps({**row(0), "prompt": "Question  5?"}))
    with pytest.raises(UserError, match=r'1 of 1 test problems.*"Question 5\?"'):
        FileTask(**files).size("test")  # type: ignore[arg-type]  # file names only


def test_nothing_is_trained_on_data_without_a_train_split(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no train split.*nothing to train on"):
        FileTask(test=jsonl(tmp_path / "test.jsonl", [row(0)])).size("train")


@pytest.mark.parametrize("options", [{"reader": "pears"}, {"grader": "numbers"}, {"grader_options": {"sandbx": "x"}}])
def test_unknown_strategies_are_refused_by_name(options: dict[str, Any]) -> None:
    ((name, value),) = options.items()
    with pytest.raises(UserError, match=rf"data\.task\.{name}={re.escape(str(value))}"):
        FileTask(**options)


def test_a_gated_dataset_is_refused_with_the_way_to_get_access(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def load_dataset(*args: Any, **options: Any) -> None:
        raise datasets.exceptions.DatasetNotFoundError("Dataset 'some/thing' is a gated dataset on the Hub.\nmore")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(UserError) as refusal:
        FileTask(test="train", repo="some/thing").size("test")
    assert "\n" not in str(refusal.value)
    assert "accept its terms at https://huggingface.co/datasets/some/thing" in str(refusal.value)
    assert "hf auth login" in str(refusal.value)


def test_files_may_stand_beside_splits_of_the_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import datasets

    monkeypatch.setattr(datasets, "load_dataset", lambda repo, name, split: [row(1), row(2)])
    task = FileTask(train="train", test=jsonl(tmp_path / "test.jsonl", [row(3)]), repo="some/thing")
    assert (prompts(task, "train"), prompts(task, "test")) == (["question 2?"], ["question 3?"])


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
