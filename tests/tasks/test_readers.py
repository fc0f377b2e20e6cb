"""How rows of several kinds become examples."""

from pathlib import Path
from typing import Any

import pytest

from codd_lightning.errors import UserError
from codd_lightning.tasks import Example, FileTask
from codd_lightning.tasks.readers import Fields, read_chat, read_choice, read_program
from codd_lightning.tasks.records import Record

DATA = Path(__file__).parents[3] / "shared" / "data"
PAIR = Fields("prompt", "response")


def choice_row(question: str) -> dict[str, Any]:
    return {"prompt": question, "response": "right", **{f"Incorrect Answer {i}": f"wrong {i}" for i in (1, 2, 3)}}


def test_a_program_shows_its_tests_and_keeps_them_for_the_grader() -> None:
    row = {
        "prompt": "Add.",
        "response": "def add(a, b):\r\n\treturn a + b\r\n",
        "test_list": ["assert add(1, 2) == 3", "assert add(0, 0) == 0"],
        "test_setup_code": "x = 1\r\ny = 2",
    }
    example = read_program(Record(row, "here"), PAIR)
    assert example == Example(
        "Add.\nYour code should pass these tests:\nassert add(1, 2) == 3\nassert add(0, 0) == 0",
        "def add(a, b):\n\treturn a + b",
        {"tests": "x = 1\ny = 2\nassert add(1, 2) == 3\nassert add(0, 0) == 0"},
    )


def test_choices_are_shuffled_for_each_problem_by_itself_and_always_alike() -> None:
    examples = [read_choice(Record(choice_row(f"question {i}"), "here"), PAIR) for i in range(200)]
    for example in examples:
        letter, choices = example.problem["letter"], example.problem["choices"]
        assert sorted(choices) == ["right", "wrong 1", "wrong 2", "wrong 3"]
        assert choices["ABCD".index(letter)] == "right"
        assert f"({letter}) right" in example.prompt.splitlines()
        assert example.response == f"The answer is ({letter})."
    counts = {letter: sum(example.problem["letter"] == letter for example in examples) for letter in "ABCD"}
    assert min(counts.values()) > 25  # 50 expected, standard deviation 6
    again = [read_choice(Record(choice_row(f"question {i}"), "there"), PAIR) for i in reversed(range(200))]
    assert examples == again[::-1]


@pytest.mark.parametrize(
    ("turns", "prompt"),
    [
        ([("user", " Hi "), ("assistant", "Hello. ")], "Hi"),
        ([("system", "Be brief."), ("user", "Hi"), ("assistant", "Hello.")], "Be brief.\n\nHi"),
        (
            [("user", "Hi"), ("assistant", "Yes?"), ("user", "Why?"), ("assistant", "Hello.")],
            "user: Hi\n\nassistant: Yes?\n\nuser: Why?",
        ),
    ],
)
def test_the_response_of_a_chat_is_its_last_turn(turns: list[tuple[str, str]], prompt: str) -> None:
    row = {"messages": [{"role": role, "content": content} for role, content in turns]}
    assert read_chat(Record(row, "here"), PAIR) == Example(prompt, "Hello.")


@pytest.mark.parametrize(
    "messages",
    [
        [],
        [{"role": "user", "content": "Hi"}],
        [{"role": "assistant", "content": "Hi"}],
        [{"role": "system", "content": "x"}, {"role": "assistant", "content": "Hi"}],
        [{"role": "user"}, {"role": "assistant", "content": "Hi"}],
        [{"role": "user", "content": ["Hi"]}, {"role": "assistant", "content": "Hi"}],
        ["Hi"],
        "Hi",
        None,
    ],
)
def test_what_is_no_chat_is_refused_by_its_place(messages: Any) -> None:
    with pytest.raises(UserError, match=r"^file, line 3"):
        read_chat(Record({"messages": messages}, "file, line 3"), PAIR)


@pytest.mark.parametrize("field", ["test_list", "test_setup_code", "prompt", "response"])
def test_a_missing_field_is_refused_by_its_name_and_place(field: str) -> None:
    row = {"prompt": "p", "response": "r", "test_list": [], "test_setup_code": ""}
    del row[field]
    with pytest.raises(UserError, match=f'^file, line 3: field "{field}" is missing$'):
        read_program(Record(row, "file, line 3"), PAIR)


@pytest.mark.parametrize("tests", [[], [""], [" ", "\n"]])
def test_a_program_without_tests_is_refused_by_its_place(tests: list[str]) -> None:
    row = {"prompt": "p", "response": "r", "test_list": tests, "test_setup_code": "x = 1"}
    with pytest.raises(UserError, match=r'^file, line 3: field "test_list" holds no test'):
        read_program(Record(row, "file, line 3"), PAIR)


def test_a_wrong_choice_that_is_right_is_refused_by_its_place() -> None:
    row = {**choice_row("which?"), "Incorrect Answer 2": " right\n"}
    with pytest.raises(UserError, match=r'^file, line 3: field "Incorrect Answer 2" is the right answer, "right"'):
        read_choice(Record(row, "file, line 3"), PAIR)


@pytest.mark.skipif(not (DATA / "mbpp.jsonl").is_file(), reason="needs MBPP in ../shared/data")
def test_mbpp_has_its_official_splits() -> None:
    path = str(DATA / "mbpp.jsonl")
    task = FileTask(
        train=path,
        validation=path,
        test=path,
        reader="program",
        prompt_field="text",
        response_field="code",
        grader="code",
        part_field="task_id",
        parts={"train": [601, 974], "validation": [511, 600], "test": [11, 510]},
    )
    assert [task.size(split) for split in ("train", "validation", "test")] == [374, 90, 500]
    assert task.example("test", 0, 0).prompt.startswith("Write a python function to remove first and last occurrence")
