"""reasoning-gym's data sets as tasks."""

import itertools
from typing import Any

import pytest

from codd_lightning.errors import UserError
from codd_lightning.tasks import SPLITS, Grade, ReasoningGymTask

NAMES = ("gsm_symbolic", "chain_sum")


@pytest.mark.parametrize("name", NAMES)
def test_the_given_response_grades_right_and_only_strictly_if_it_ended(name: str) -> None:
    task = ReasoningGymTask(name)
    for index in range(10):
        example = task.example("test", index, 0)
        assert task.grade(example, example.response, ended=True) == Grade(strict=True, flexible=True)
        assert task.grade(example, example.response, ended=False) == Grade(strict=False, flexible=True)


def test_gsm_symbolic_looks_at_the_number_after_the_mark() -> None:
    task = ReasoningGymTask("gsm_symbolic")
    for index in range(10):
        example = task.example("train", index, 0)
        answer = example.problem["answer"]
        assert "####" in example.response
        assert task.grade(example, f"so it is\n#### {answer}", ended=True) == Grade(strict=True, flexible=True)
        assert task.grade(example, f"#### {int(answer) + 1}", ended=True) == Grade(strict=False, flexible=False)
        assert task.grade(example, f"the answer is {answer}", ended=True) == Grade(strict=False, flexible=True)
        assert task.grade(example, "", ended=True) == Grade(strict=False, flexible=False)


def test_chain_sum_wants_the_answer_alone() -> None:
    task = ReasoningGymTask("chain_sum")
    for index in range(10):
        example = task.example("train", index, 0)
        answer = example.problem["answer"]
        assert example.response == answer
        assert task.grade(example, str(int(answer) + 1), ended=True) == Grade(strict=False, flexible=False)
        assert task.grade(example, f"I say {answer}", ended=True) == Grade(strict=False, flexible=True)


@pytest.mark.parametrize("name", NAMES)
def test_splits_and_seeds_share_no_question(name: str) -> None:
    task = ReasoningGymTask(name)
    questions = {
        (split, seed): {task.example(split, i, seed).prompt for i in range(40)} for split in SPLITS for seed in (0, 1)
    }
    for one, other in itertools.combinations(questions, 2):
        assert not questions[one] & questions[other]


def test_the_same_arguments_give_the_same_example() -> None:
    one, other = ReasoningGymTask("gsm_symbolic"), ReasoningGymTask("gsm_symbolic")
    assert one.example("train", 7, 3) == other.example("train", 7, 3)
    assert one.example("train", 7, 3) != one.example("train", 8, 3)


def test_examples_come_without_end() -> None:
    task = ReasoningGymTask("chain_sum")
    assert task.size("train") is None
    assert task.example("train", 123_456, 0).prompt


def test_options_reach_the_data_set() -> None:
    task = ReasoningGymTask("chain_sum", {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1})
    assert {task.example("train", i, 0).problem["metadata"]["num_terms"] for i in range(20)} == {2}


@pytest.mark.parametrize(
    ("name", "options"),
    [("gsm_symbolik", {}), ("chain_sum", {"terms": 2}), ("chain_sum", {"min_terms": 5, "max_terms": 2})],
)
def test_unknown_data_sets_and_options_are_refused_by_name(name: str, options: dict[str, Any]) -> None:
    with pytest.raises(UserError) as refusal:
        ReasoningGymTask(name, options)
    assert name in str(refusal.value)
    assert all(option in str(refusal.value) for option in options)
    assert "\n" not in str(refusal.value)
