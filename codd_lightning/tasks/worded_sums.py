"""Worded sums: short arithmetic stories whose step-by-step solutions can be worded in many ways.

The solutions make the factorization barrier visible. Every step of a story has several right
wordings of different lengths, so a right answer is one joint choice, and a token-by-token mixture of
right answers is almost never right. Grades come in two strengths: *strict* accepts the whole text
only if the generator could have written it for this problem; *flexible* looks at the last number.
"""

import hashlib
import random
import re
from dataclasses import dataclass

from codd_lightning.errors import UserError
from codd_lightning.tasks.base import Example, Grade, Task, last_number

NAMES = ("Ada", "Ben", "Cleo", "Dan", "Eva", "Finn", "Gina", "Hugo", "Ivy", "Jon", "Kim", "Leo")
OBJECTS = (
    "apples", "books", "coins", "dolls", "eggs", "flags", "keys", "lamps", "maps", "nuts", "pens", "shells",
)  # fmt: skip
LARGEST_TOTAL = 30
LARGEST_OPERAND = 9

STORY_OPENING = "{name} has {start} {object}."
STORY_QUESTION = "How many {object} does {name} have?"
STORY_EVENTS = {
    "add": (
        "{name} finds {operand} more.",
        "{friend} brings {operand} more.",
        "{name} buys {operand} more.",
        "{friend} gives {name} {operand} more.",
    ),
    "subtract": (
        "{name} loses {operand}.",
        "{friend} takes {operand}.",
        "{name} sells {operand}.",
        "{name} gives {friend} {operand}.",
    ),
    "double": ("Then the number doubles.",),
}

# What a solution may say of one step; `before`, `operand` and `after` are its numbers. Many wordings have a
# twin of the same length whose words must not be mixed with theirs ("that makes", "this gives").
STEP_WORDINGS = {
    "add": (
        "{name} now has {before} + {operand} = {after} {object}.",
        "{before} plus {operand} is {after} {object}.",
        "{before} and {operand} make {after} {object}.",
        "adding {operand} to {before} gives {after}.",
        "putting {operand} with {before} makes {after}.",
        "with {operand} more, {name} has {after} {object}.",
        "given {operand} extra, {name} owns {after} {object}.",
        "that makes {before} + {operand} = {after}.",
        "this gives {before} + {operand} = {after}.",
        "{operand} more than {before} is {after} {object}.",
        "the number of {object} grows from {before} to {after}.",
        "the count of {object} rises from {before} to {after}.",
        "{name} gets {operand} and has {after}.",
        "{name} collects {operand} and owns {after}.",
    ),
    "subtract": (
        "{name} now has {before} - {operand} = {after} {object}.",
        "{before} minus {operand} is {after} {object}.",
        "{before} less {operand} leaves {after} {object}.",
        "taking {operand} from {before} leaves {after}.",
        "lifting {operand} off {before} gives {after}.",
        "without {operand}, {name} has {after} {object} left.",
        "lacking {operand}, {name} owns {after} {object} still.",
        "that leaves {before} - {operand} = {after}.",
        "this keeps {before} - {operand} = {after}.",
        "{operand} less than {before} is {after} {object}.",
        "the number of {object} drops from {before} to {after}.",
        "the count of {object} falls from {before} to {after}.",
        "{name} gives up {operand} and keeps {after}.",
        "{name} hands over {operand} and holds {after}.",
    ),
    "double": (
        "{name} now has {before} + {before} = {after} {object}.",
        "{before} plus {before} is {after} {object}.",
        "{before} and {before} make {after} {object}.",
        "doubling {before} gives {after}.",
        "with twice as many, {name} has {after} {object}.",
        "that makes 2 * {before} = {after}.",
        "this gives 2 * {before} = {after}.",
        "twice {before} is {after} {object}.",
    ),
}
CONNECTIVES = ("", "then ", "next, ", "after that, ", "following this, ")
FIRST_CONNECTIVES = ("", "first, ")
ANSWERS = (
    "the answer is {after}.",
    "the result equals {after}.",
    "so {name} has {after} {object}.",
    "thus {name} owns {after} {object}.",
    "in the end there are {after} {object}.",
    "{name} has {after} {object} in all.",
    "{name} owns {after} {object} in total.",
)


@dataclass(frozen=True)
class Step:
    """One event of a story: its operation and the numbers before, in and after it."""

    operation: str
    before: int
    operand: int
    after: int


@dataclass(frozen=True)
class Story:
    """A problem: who has how many of what, and what happens to them."""

    name: str
    friend: str
    object: str
    steps: tuple[Step, ...]


class WordedSums(Task):
    """Seeded generator and grader of worded sums.

    A digest of the problem decides which split it belongs to, so no story of the test split is ever
    trained on, whatever the seeds.

    Args:
        min_steps, max_steps: how many events a story has.

    Raises:
        UserError: the numbers of steps are not 1 <= min_steps <= max_steps <= 4.
    """

    def __init__(self, min_steps: int = 2, max_steps: int = 3) -> None:
        if not 1 <= min_steps <= max_steps <= 4:
            raise UserError(
                f"data.task.min_steps={min_steps} and data.task.max_steps={max_steps} must satisfy "
                "1 <= min_steps <= max_steps <= 4"
            )
        self.min_steps = min_steps
        self.max_steps = max_steps

    def size(self, split: str) -> None:
        return None

    def example(self, split: str, index: int, seed: int) -> Example:
        rng = random.Random(f"worded_sums/{seed}/{split}/{index}")
        while True:
            story = self._draw_story(rng)
            prompt = _draw_prompt(story, rng)
            if split_of(prompt) == split:
                return Example(prompt, _draw_solution(story, rng), story)

    def grade(self, example: Example, response: str, ended: bool) -> Grade:
        story: Story = example.problem
        sentences = [sentence.strip() for sentence in normalize(response).split(".")]
        strict = ended and sentences[-1] == "" and len(sentences) == len(story.steps) + 2
        if strict:
            accepted = [*(accepted_sentences(story, i) for i in range(len(story.steps))), accepted_answers(story)]
            strict = all(f"{sentence}." in right for sentence, right in zip(sentences[:-1], accepted, strict=True))
        return Grade(strict=strict, flexible=last_number(response) == story.steps[-1].after)

    def _draw_story(self, rng: random.Random) -> Story:
        name, friend = rng.sample(NAMES, 2)
        total = rng.randint(2, 15)
        steps: list[Step] = []
        for _ in range(rng.randint(self.min_steps, self.max_steps)):
            operation = rng.choice(_possible_operations(total, steps))
            operand = total if operation == "double" else rng.randint(1, _largest_operand(operation, total))
            after = total - operand if operation == "subtract" else total + operand
            steps.append(Step(operation, total, operand, after))
            total = after
        return Story(name, friend, rng.choice(OBJECTS), tuple(steps))


def split_of(prompt: str) -> str:
    """The split that a problem belongs to: 8 of 10 train, 1 validation, 1 test, by digest."""
    bucket = hashlib.sha256(prompt.encode()).digest()[0] % 10
    return {0: "test", 1: "validation"}.get(bucket, "train")


def normalize(text: str) -> str:
    """Text with single spaces and none before punctuation, as the wordings are written."""
    return re.sub(r"\s+([.,?!])", r"\1", re.sub(r"\s+", " ", text)).strip()


def accepted_sentences(story: Story, index: int) -> frozenset[str]:
    """Every sentence that a right solution may have for step `index` of a story."""
    step = story.steps[index]
    connectives = CONNECTIVES if index else FIRST_CONNECTIVES
    return frozenset(
        connective + _fill(wording, story, step)
        for connective in connectives
        for wording in STEP_WORDINGS[step.operation]
    )


def accepted_answers(story: Story) -> frozenset[str]:
    """Every closing sentence that a right solution may have."""
    return frozenset(_fill(answer, story, story.steps[-1]) for answer in ANSWERS)


def _possible_operations(total: int, steps: list[Step]) -> list[str]:
    doubled = any(step.operation == "double" for step in steps)
    return [
        *(["add"] if total < LARGEST_TOTAL else []),
        *(["subtract"] if total > 1 else []),
        *(["double"] if 2 * total <= LARGEST_TOTAL and not doubled else []),
    ]


def _largest_operand(operation: str, total: int) -> int:
    room = total - 1 if operation == "subtract" else LARGEST_TOTAL - total
    return min(LARGEST_OPERAND, room)


def _fill(wording: str, story: Story, step: Step) -> str:
    return wording.format(
        name=story.name,
        friend=story.friend,
        object=story.object,
        before=step.before,
        operand=step.operand,
        after=step.after,
    )


def _draw_prompt(story: Story, rng: random.Random) -> str:
    opening = STORY_OPENING.format(name=story.name, start=story.steps[0].before, object=story.object)
    events = [_fill(rng.choice(STORY_EVENTS[step.operation]), story, step) for step in story.steps]
    question = STORY_QUESTION.format(object=story.object, name=story.name)
    return " ".join([opening, *events, question])


def _draw_solution(story: Story, rng: random.Random) -> str:
    sentences = [
        rng.choice(CONNECTIVES if index else FIRST_CONNECTIVES)
        + _fill(rng.choice(STEP_WORDINGS[step.operation]), story, step)
        for index, step in enumerate(story.steps)
    ]
    answer = _fill(rng.choice(ANSWERS), story, story.steps[-1])
    return " ".join([*sentences, answer])
