"""Worded sums: what is generated grades right, and what differs from it does not."""

import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codd_lightning.tasks import SPLITS, Example, Grade, Task, WordedSums
from codd_lightning.tasks.worded_sums import (
    LARGEST_TOTAL,
    Step,
    Story,
    accepted_answers,
    accepted_sentences,
    split_of,
)

TASK = WordedSums(min_steps=2, max_steps=4)
STORY = Story("Ada", "Ben", "eggs", (Step("add", 4, 3, 7), Step("double", 7, 7, 14), Step("subtract", 14, 5, 9)))
PROMPT = "Ada has 4 eggs. Ben brings 3 more. Then the number doubles. Ada loses 5. How many eggs does Ada have?"
BY_HAND = Example(PROMPT, "", STORY)

examples = st.builds(TASK.example, st.sampled_from(SPLITS), st.integers(0, 10_000), st.integers(0, 5))
RIGHT, WRONG = Grade(True, True), Grade(False, False)


def sentences(text: str) -> list[str]:
    return re.findall(r"[^.]+\.", text)


@given(example=examples)
def test_every_generated_solution_grades_right(example: Example) -> None:
    assert TASK.grade(example, example.response, ended=True) == RIGHT


@given(example=examples)
def test_a_solution_that_did_not_end_is_not_strictly_right(example: Example) -> None:
    assert TASK.grade(example, example.response, ended=False) == Grade(strict=False, flexible=True)


@given(example=examples, data=st.data())
def test_any_changed_number_is_not_strictly_right(example: Example, data: st.DataObject) -> None:
    numbers = list(re.finditer(r"\d+", example.response))
    chosen = data.draw(st.sampled_from(numbers))
    other = data.draw(st.integers(0, 99).filter(lambda n: n != int(chosen.group())))
    changed = example.response[: chosen.start()] + str(other) + example.response[chosen.end() :]
    grade = TASK.grade(example, changed, ended=True)
    assert not grade.strict
    assert grade.flexible == (chosen is not numbers[-1])


@given(example=examples, data=st.data())
def test_sentences_in_another_order_are_not_strictly_right(example: Example, data: st.DataObject) -> None:
    parts = sentences(example.response)
    shuffled = data.draw(st.permutations(parts).filter(lambda p: p != parts))
    assert not TASK.grade(example, "".join(shuffled), ended=True).strict


@given(example=examples, data=st.data())
def test_a_missing_or_repeated_sentence_is_not_strictly_right(example: Example, data: st.DataObject) -> None:
    parts = sentences(example.response)
    i = data.draw(st.integers(0, len(parts) - 1))
    assert not TASK.grade(example, "".join(parts[:i] + parts[i + 1 :]), ended=True).strict
    assert not TASK.grade(example, "".join([*parts[: i + 1], *parts[i:]]), ended=True).strict


@given(example=examples, data=st.data())
def test_a_missing_or_added_word_is_not_strictly_right(example: Example, data: st.DataObject) -> None:
    words = example.response.split()
    connectives = {"first,", "then", "next,", "after", "that,", "following", "this,"}  # these alone may come and go
    i = data.draw(st.sampled_from([i for i, word in enumerate(words) if word not in connectives]))
    added = [*words[:i], "eggs", *words[i:]]
    assert not TASK.grade(example, " ".join(words[:i] + words[i + 1 :]), ended=True).strict
    assert not TASK.grade(example, " ".join(added), ended=True).strict


@given(example=examples)
def test_text_after_the_solution_is_not_strictly_right(example: Example) -> None:
    for tail in (" Ada", ".", " .", " the answer is 1."):
        assert not TASK.grade(example, example.response + tail, ended=True).strict
    assert not TASK.grade(example, example.response.removesuffix("."), ended=True).strict


@given(example=examples)
def test_the_spacing_of_a_tokenizer_changes_no_grade(example: Example) -> None:
    spaced = " ".join(re.findall(r"\w+|[^\w\s]", example.response))
    assert spaced != example.response
    assert TASK.grade(example, f"  {spaced}\n", ended=True) == RIGHT


def said(number: int, *words: str) -> str:
    """A right solution of `STORY`, some of its sentences replaced."""
    right = [
        "Ada gets 3 and has 7.",
        "then doubling 7 gives 14.",
        "next, taking 5 from 14 leaves 9.",
        "the answer is 9.",
    ]
    right[number : number + len(words)] = words
    return " ".join(right)


@pytest.mark.parametrize(
    "text",
    [
        said(0, "Ada gets 3 and has 7."),
        said(0, "first, that makes 4 + 3 = 7."),
        said(0, "first, with 3 more, Ada has 7 eggs."),
        said(0, "3 more than 4 is 7 eggs."),
        said(1, "after that, twice 7 is 14 eggs."),
        said(1, "7 plus 7 is 14 eggs."),
        said(0, "first, this gives 4 + 3 = 7."),
        said(2, "following this, the count of eggs falls from 14 to 9."),
        said(3, "Ada owns 9 eggs in total."),
        said(2, "14 minus 5 is 9 eggs."),
        said(2, "then the number of eggs drops from 14 to 9."),
        said(3, "so Ada has 9 eggs."),
        said(3, "Ada has 9 eggs in all."),
        "with 3 more , Ada has 7 eggs . next , twice 7 is 14 eggs . that leaves 14 - 5 = 9 . so Ada has 9 eggs .",
    ],
)
def test_solutions_written_by_hand_grade_right(text: str) -> None:
    assert TASK.grade(BY_HAND, text, ended=True) == RIGHT


@pytest.mark.parametrize(
    "text",
    [
        said(0, "adding 3 more than 4 is 7 eggs."),  # the start of one wording, the end of another
        said(0, "Ada gets 3 and 4 gives 7."),
        said(0, "with 3 more, that makes 4 + 3 = 7."),
        said(0, "that makes 4 plus 3 is 7 eggs."),
        said(0, "4 plus 3 = 7 eggs."),
        said(0, "Ada now has 4 + 3 = 7."),
        said(0, "this makes 4 + 3 = 7."),  # words of two twins
        said(0, "putting 3 to 4 gives 7."),
        said(0, "the count of eggs grows from 4 to 7."),
        said(0, "given 3 more, Ada has 7 eggs."),
        said(2, "that keeps 14 - 5 = 9."),
        said(2, "lifting 5 from 14 leaves 9."),
        said(3, "the answer equals 9."),
        said(3, "Ada has 9 eggs in total."),
        said(1, "doubling 7 plus 7 is 14 eggs."),
        said(1, "twice as many is 14 eggs."),
        said(2, "taking 5 from 14 keeps 9."),
        said(2, "5 less than 14 minus 5 is 9 eggs."),
        said(3, "so the answer is 9."),
        said(3, "the answer is 9 eggs."),
        said(0, "then Ada gets 3 and has 7."),  # the first sentence follows nothing
        said(1, "first, doubling 7 gives 14."),
        said(0, "Ben gets 3 and has 7."),
        said(0, "3 plus 4 is 7 eggs."),  # true, and not what the story says
        said(2, "14 minus 5 is 9 apples."),
    ],
)
def test_mixtures_of_wordings_and_other_stories_are_not_strictly_right(text: str) -> None:
    assert TASK.grade(BY_HAND, text, ended=True) == Grade(strict=False, flexible=True)


@pytest.mark.parametrize(("text", "flexible"), [("", False), ("...", False), ("9", True), ("so 10 or 9", True)])
def test_only_the_last_number_counts_for_the_flexible_grade(text: str, flexible: bool) -> None:
    assert TASK.grade(BY_HAND, text, ended=True) == Grade(strict=False, flexible=flexible)


@given(example=examples)
def test_arithmetic_of_stories_is_consistent_and_told_by_the_prompt(example: Example) -> None:
    story = example.problem
    total = story.steps[0].before
    parts = example.prompt.split(". ")
    assert parts[0] == f"{story.name} has {total} {story.object}"
    assert len(parts) == len(story.steps) + 2
    for step, told in zip(story.steps, parts[1:-1], strict=True):
        change = {"add": step.operand, "subtract": -step.operand, "double": total}[step.operation]
        assert step.before == total
        total += change
        assert step.after == total
        assert 0 < total <= LARGEST_TOTAL
        numbers = re.findall(r"\d+", told)
        assert numbers == ([] if step.operation == "double" else [str(step.operand)])
    assert sum(step.operation == "double" for step in story.steps) <= 1
    assert story.name != story.friend


@given(example=examples)
def test_every_sentence_is_of_the_accepted_wordings_of_its_step(example: Example) -> None:
    parts = [part.strip() for part in sentences(example.response)]
    for i, part in enumerate(parts[:-1]):
        assert part in accepted_sentences(example.problem, i)
    assert parts[-1] in accepted_answers(example.problem)


@pytest.mark.parametrize("index", range(3))
def test_a_step_has_many_wordings_of_different_lengths(index: int) -> None:
    accepted = accepted_sentences(STORY, index)
    assert len(accepted) >= 12
    assert len({len(sentence.split()) for sentence in accepted}) > 3


@given(least=st.integers(1, 4), most=st.integers(1, 4), index=st.integers(0, 500))
def test_stories_have_as_many_steps_as_asked_for(least: int, most: int, index: int) -> None:
    least, most = sorted((least, most))
    story = WordedSums(least, most).example("train", index, 0).problem
    assert least <= len(story.steps) <= most


def test_every_number_of_steps_is_drawn() -> None:
    assert {len(TASK.example("train", i, 0).problem.steps) for i in range(60)} == {2, 3, 4}


@pytest.mark.parametrize(("least", "most"), [(0, 2), (3, 2), (1, 5), (-1, 4)])
def test_impossible_numbers_of_steps_are_refused(least: int, most: int) -> None:
    with pytest.raises(ValueError, match=rf"min_steps={least} and .*max_steps={most}"):
        WordedSums(least, most)


def test_splits_share_no_problem_whatever_the_seeds() -> None:
    prompts = {split: {TASK.example(split, i, seed).prompt for i in range(300) for seed in (0, 1)} for split in SPLITS}
    for split in SPLITS:
        assert {split_of(prompt) for prompt in prompts[split]} == {split}
    for one, other in itertools.combinations(SPLITS, 2):
        assert not prompts[one] & prompts[other]


@given(split=st.sampled_from(SPLITS), index=st.integers(0, 1000), seed=st.integers(0, 9))
def test_the_same_arguments_give_the_same_example(split: str, index: int, seed: int) -> None:
    assert WordedSums(min_steps=2, max_steps=4).example(split, index, seed) == TASK.example(split, index, seed)


def test_other_indices_and_seeds_give_other_examples() -> None:
    assert len({TASK.example("train", i, seed).prompt for i in range(100) for seed in (0, 1)}) > 195


def test_examples_come_without_end() -> None:
    assert isinstance(TASK, Task)
    assert [TASK.size(split) for split in SPLITS] == [None] * 3
