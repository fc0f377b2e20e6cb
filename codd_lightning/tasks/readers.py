"""How a row becomes an example, chosen by name (`data.task.reader`)."""

import random
from collections.abc import Callable
from dataclasses import dataclass

from codd_lightning.errors import UserError
from codd_lightning.tasks.base import Example
from codd_lightning.tasks.records import Record

WRONG_CHOICES = ("Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3")


@dataclass(frozen=True)
class Fields:
    """The names of the fields that hold a row's prompt and response."""

    prompt: str
    response: str


Reader = Callable[[Record, Fields], Example]


def read_pair(record: Record, fields: Fields) -> Example:
    """A prompt and a response."""
    prompt, response = (record.text(field) for field in (fields.prompt, fields.response))
    return Example(prompt.strip(), response.strip())


def read_program(record: Record, fields: Fields) -> Example:
    """A task in words with tests (`test_list`, `test_setup_code`), as MBPP's; the prompt shows the tests."""
    task, code = (record.text(field) for field in (fields.prompt, fields.response))
    tests = record.get("test_list", list)
    if not all(isinstance(test, str) for test in tests):
        raise UserError(f'{record.place}: field "test_list" holds something that is not text')
    shown = "\n".join(tests).replace("\r\n", "\n")
    setup = record.text("test_setup_code")
    if not shown.strip():
        raise UserError(f'{record.place}: field "test_list" holds no test, so any program would be right: add one')
    return Example(
        f"{task.strip()}\nYour code should pass these tests:\n{shown}", code.strip(), {"tests": f"{setup}\n{shown}"}
    )


def read_choice(record: Record, fields: Fields) -> Example:
    """A question, its right answer (the response field) and three wrong ones, as GPQA's, lettered from A.

    The order is drawn for each problem by itself, seeded by its text: the same in every run and on every machine.
    """
    question, right = (record.text(field).strip() for field in (fields.prompt, fields.response))
    choices = [right, *(record.text(field).strip() for field in WRONG_CHOICES)]
    for field, choice in zip(WRONG_CHOICES, choices[1:], strict=True):
        if choice == right:
            raise UserError(f'{record.place}: field "{field}" is the right answer, "{right[:80]}": change one of them')
    random.Random(f"choices/{question}").shuffle(choices)
    letters = [chr(ord("A") + i) for i in range(len(choices))]
    lines = [f"({letter}) {choice}" for letter, choice in zip(letters, choices, strict=True)]
    letter = letters[choices.index(right)]
    return Example(
        "\n".join([question, "", *lines]), f"The answer is ({letter}).", {"letter": letter, "choices": choices}
    )


def read_chat(record: Record, fields: Fields) -> Example:
    """A conversation in `messages`, roles and contents: the response is the assistant's last turn.

    The prompt is what comes before: the user's words where there is one turn, after the system's if there are any;
    otherwise every turn with its role.
    """
    turns: list[tuple[str, str]] = []
    for message in record.get("messages", list):
        turn = Record(message, record.place)
        turns.append((turn.text("role"), turn.text("content").strip()))
    *before, (last, response) = turns or [("", "")]
    if last != "assistant" or not any(role == "user" for role, _ in before):
        raise UserError(f"{record.place}: messages must hold a user's turn and end with the assistant's")
    said = [(role, content) for role, content in before if role != "system"]
    system = [content for role, content in before if role == "system"]
    spoken = [said[0][1]] if len(said) == 1 else [f"{role}: {content}" for role, content in said]
    return Example("\n\n".join([*system, *spoken]), response)


READERS: dict[str, Reader] = {
    "pair": read_pair,
    "program": read_program,
    "choice": read_choice,
    "chat": read_chat,
}
