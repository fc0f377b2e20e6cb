"""Answers in mathematics, programs and letters."""

import json
import threading
from pathlib import Path

import pytest

from codd_lightning.errors import UserError
from codd_lightning.sandbox import run_python
from codd_lightning.tasks import Example, FileTask, Grade
from codd_lightning.tasks.graders import ChoiceGrader, CodeGrader, MathGrader, equality
from codd_lightning.tasks.graders.code import extract_code
from codd_lightning.tasks.graders.math import last_boxed

DATA = Path(__file__).parents[3] / "shared" / "data"
YES, ONLY_FLEXIBLE, NO = Grade(True, True), Grade(False, True), Grade(False, False)


def boxed(answer: str) -> str:
    return rf"So it is \boxed{{{answer}}}."


@pytest.mark.parametrize(
    ("answer", "response", "ended", "grade"),
    [
        (r"\frac{1}{2}", boxed(r"\frac{1}{2}"), True, YES),
        (r"\frac{1}{2}", boxed(r"\dfrac 12"), True, YES),
        (r"\frac{1}{2}", boxed("0.5"), True, YES),
        (r"\frac{1}{2}", boxed("0.5"), False, ONLY_FLEXIBLE),
        (r"\frac{1}{2}", "So it is $1/2$.", True, ONLY_FLEXIBLE),
        (r"\frac{1}{2}", boxed("2"), True, NO),
        (r"\frac{1}{2}", boxed("1") + boxed("0.5"), True, YES),
        (r"\frac{1}{2}", r"\boxed{\frac{1}{2}", True, ONLY_FLEXIBLE),
        ("p - q", boxed("-q+p"), True, YES),
        (r"\left( 3, \frac{\pi}{2} \right)", boxed(r"(3, \pi/2)"), True, YES),
        (r"\left( 3, \frac{\pi}{2} \right)", boxed(r"(\pi/2, 3)"), True, NO),
        (r"\text{Evelyn}", boxed(r"\text{Evelyn}"), True, YES),
        ("42", "The answer is 42", True, ONLY_FLEXIBLE),
        ("42", "", True, NO),
        ("42", "}{\\boxed", True, NO),
    ],
)
def test_mathematical_answers_are_compared_as_expressions(
    answer: str, response: str, ended: bool, grade: Grade
) -> None:
    assert MathGrader().grade(Example("?", boxed(answer)), response, ended) == grade


def test_a_reference_without_a_box_is_read_as_it_is() -> None:
    example = Example("?", "Three times four is twelve. The answer is 12")
    assert MathGrader().grade(example, boxed("12"), True) == YES
    assert MathGrader().grade(example, boxed("13"), True) == NO


@pytest.mark.parametrize(
    ("text", "inside"),
    [
        (r"\boxed{a{b}c} and", "a{b}c"),
        (r"\boxed{1} \boxed{2}", "2"),
        (r"\boxed{1} \boxed{2", "1"),
        (r"\boxed{\boxed{1}}", "1"),
        ("none", None),
    ],
)
def test_the_last_whole_box_counts(text: str, inside: str | None) -> None:
    assert last_boxed(text) == inside


def test_answers_are_compared_off_the_main_thread_too() -> None:
    grades: list[Grade] = []
    example = Example("?", boxed("0.25"))
    threads = [
        threading.Thread(target=lambda: grades.append(MathGrader().grade(example, boxed("1/4"), True)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert grades == [YES] * 4


def test_a_comparison_that_takes_too_long_is_ended_and_the_next_one_is_right(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(equality, "SECONDS", 1.0)
    example = Example("?", boxed("1"))
    for endless in ("9^{9^{9^{9^{9}}}}", "100000000!"):
        assert not MathGrader().grade(example, boxed(endless), True).flexible
    monkeypatch.undo()
    assert MathGrader().grade(example, boxed("2/2"), True) == YES


@pytest.mark.skipif(not (DATA / "math500.jsonl").is_file(), reason="needs MATH-500 in ../shared/data")
def test_math500_accepts_its_answers_in_other_boxes_and_no_neighbours_answer() -> None:
    task = FileTask(test=str(DATA / "math500.jsonl"), prompt_field="problem", response_field="solution", grader="math")
    answers = [json.loads(line)["answer"] for line in (DATA / "math500.jsonl").read_text().splitlines()]
    assert task.size("test") == 500
    for i in range(0, 500, 10):
        example = task.example("test", i, 0)
        assert task.grade(example, example.response, True) == YES
        assert task.grade(example, f"Thus ${answers[i]} $", True).strict is False
        if answers[i - 1] != answers[i]:
            assert not task.grade(example, boxed(answers[i - 1]), True).strict


CODE = "def add(a, b):\n    return a + b"
ADDING = Example("Add.", CODE, {"tests": "assert add(1, 2) == 3\nassert add(0, 0) == 0"})


def fenced(code: str, language: str = "python") -> str:
    return f"```{language}\n{code}\n```"


@pytest.fixture
def grader() -> CodeGrader:
    try:
        run_python("pass")
    except UserError as refusal:
        pytest.skip(str(refusal))
    return CodeGrader()


@pytest.mark.parametrize(
    ("response", "ended", "grade"),
    [
        (CODE, True, YES),
        (CODE, False, ONLY_FLEXIBLE),
        (fenced(CODE), True, YES),
        (fenced(CODE, "") + "\n", True, YES),
        (fenced(CODE), False, ONLY_FLEXIBLE),
        (f"Here it is:\n{fenced(CODE)}\nIt adds.", True, ONLY_FLEXIBLE),
        (fenced(CODE) + "\n" + fenced("add = None"), True, ONLY_FLEXIBLE),
        (f"```python\n{CODE}", True, ONLY_FLEXIBLE),
        (f"Here it is: {CODE}", True, NO),
        (fenced(CODE.replace("+", "-")), True, NO),
        (fenced(CODE) + "```", True, ONLY_FLEXIBLE),
        ("exit(0)", True, NO),
        ("", True, NO),
    ],
)
def test_programs_are_right_where_their_tests_pass(
    response: str, ended: bool, grade: Grade, grader: CodeGrader
) -> None:
    assert grader.grade(ADDING, response, ended) == grade


def test_the_first_block_is_the_code() -> None:
    assert extract_code("a ```b``` c") == ("a ```b``` c", False)
    assert extract_code("x\n```python\ny\n```\n```\nz\n```") == ("y\n", False)


def test_an_unknown_sandbox_is_refused_before_anything_runs() -> None:
    with pytest.raises(UserError, match=r"data\.task\.grader_options\.sandbox=chroot"):
        FileTask(grader="code", grader_options={"sandbox": "chroot"})


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("seconds", "ten"),
        ("seconds", float("inf")),
        ("seconds", float("nan")),
        ("seconds", 0),
        ("seconds", None),
        ("memory_mib", -1),
        ("memory_mib", 64.5),
        ("memory_mib", True),
        ("memory_mib", "512"),
    ],
)
def test_a_limit_of_a_wrong_kind_or_size_is_refused_at_construction(option: str, value: object) -> None:
    with pytest.raises(UserError, match=rf"^data\.task\.grader_options\.{option}={value} must be "):
        FileTask(reader="program", grader="code", grader_options={option: value})


@pytest.mark.skipif(not (DATA / "mbpp.jsonl").is_file(), reason="needs MBPP in ../shared/data")
def test_reference_programs_of_mbpp_pass_and_programs_of_others_fail(grader: CodeGrader) -> None:
    task = FileTask(
        test=str(DATA / "mbpp.jsonl"), reader="program", prompt_field="text", response_field="code", grader="code"
    )
    examples = [task.example("test", i, 0) for i in range(10, 974, 60)]
    for i, example in enumerate(examples):
        assert task.grade(example, example.response, True) == YES
        assert task.grade(example, examples[i - 1].response, True) == NO


CHOICE = Example("?", "The answer is (B).", {"letter": "B", "choices": ["w", "x", "y", "z"]})


@pytest.mark.parametrize(
    ("response", "ended", "grade"),
    [
        ("The answer is (B).", True, YES),
        ("The answer is (B).", False, ONLY_FLEXIBLE),
        ("B", True, YES),
        ("(B).", True, YES),
        ("A carbon atom. **Answer: B**", True, YES),
        ("answer: **B**", True, YES),
        (r"so \boxed{B}", True, YES),
        (r"so \boxed{\text{(B)}}", True, YES),
        ("The answer is A. No, the answer is B.", True, YES),
        ("The answer is B. No, the answer is A.", True, NO),
        ("It must be (B), as A proton says.", True, ONLY_FLEXIBLE),
        ("I choose B", True, ONLY_FLEXIBLE),
        ("The answer is Boron", True, NO),
        ("The answer is (C).", True, NO),
        ("The answer is (E).", True, NO),
        ("", True, NO),
    ],
)
def test_a_letter_is_said_or_only_mentioned(response: str, ended: bool, grade: Grade) -> None:
    assert ChoiceGrader().grade(CHOICE, response, ended) == grade
