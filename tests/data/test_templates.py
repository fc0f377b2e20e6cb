"""Prompt templates: the very token ids that a problem becomes."""

from collections.abc import Callable
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast
from whole_data import data_of

from codd_lightning.backbones import load_backbone
from codd_lightning.cli.build import make_data, make_task
from codd_lightning.cli.compose import compose_experiment
from codd_lightning.data import Template
from codd_lightning.errors import UserError
from codd_lightning.tasks import Example

CHAT = "{% for m in messages %}{{ m.role }} {{ m.content }} {% endfor %}{% if add_generation_prompt %}w9{% endif %}"


def test_a_template_puts_words_around_the_problem(words: PreTrainedTokenizerFast) -> None:
    ids = Template("w1 {prompt} w2 {prompt}").encode(Example("w5 w6", ""), words)
    assert words.convert_ids_to_tokens(ids) == ["w1", "w5", "w6", "w2", "w5", "w6"]


def test_braces_of_a_problem_stay(words: PreTrainedTokenizerFast) -> None:
    seen: list[str] = []

    class Spy:
        chat_template = None

        def __call__(self, text: str, **options: Any) -> dict[str, list[int]]:
            seen.append(text)
            return {"input_ids": []}

    Template("solve: {prompt}").encode(Example("{x} in {0} {prompt!r}", ""), Spy())
    assert seen == ["solve: {x} in {0} {prompt!r}"]


@pytest.mark.parametrize(
    ("template", "rendered"),
    [
        (Template("w1 {prompt}"), "user w1 w5 w9"),
        (Template("{prompt}", system="w2"), "system w2 user w5 w9"),
        (Template("w1 {prompt}", chat=False), "w1 w5"),
    ],
)
def test_the_chat_template_is_used_where_there_is_one(
    template: Template, rendered: str, words: PreTrainedTokenizerFast
) -> None:
    words.chat_template = CHAT
    assert template.encode(Example("w5", ""), words) == words(rendered, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: Template("no place"), "has no {prompt}"),
        (lambda: Template(system="be brief", chat=False), "has no effect with chat=false"),
    ],
)
def test_a_template_that_says_nothing_of_the_problem_is_refused(make: Callable[[], Template], complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        make()


def test_a_system_prompt_needs_a_chat_template(words: PreTrainedTokenizerFast) -> None:
    with pytest.raises(UserError, match="needs a chat template"):
        Template(system="w1").encode(Example("w2", ""), words)


def test_training_and_evaluation_may_use_different_templates(
    words: PreTrainedTokenizerFast, listed_task: Callable[..., Any]
) -> None:
    templates = {"short": Template("w1 {prompt}"), "long": Template("w1 w2 w3 {prompt}")}
    data = data_of(listed_task(test=[("w5", "w6")]), words, 2, 2, template="short", templates=templates)
    dataset = data.dataset("test")

    def tokens(ids: list[int]) -> list[str]:
        return words.convert_ids_to_tokens(ids)

    assert tokens(dataset[0].prompt) == tokens(dataset.prompt(0)) == ["w1", "w5"]
    assert tokens(dataset.prompt(0, "long")) == ["w1", "w2", "w3", "w5"]
    assert tokens(dataset.prompt(0, "plain")) == ["w5"]
    with pytest.raises(UserError, match=r"data.template=shrill is not one of plain, short, long"):
        dataset.prompt(0, "shrill")


@pytest.mark.parametrize("data", ["gsm8k", "math", "math500", "mbpp", "gpqa"])
def test_every_benchmark_has_three_templates_that_make_three_prompts(
    data: str,
) -> None:
    config = compose_experiment("smoke", [f"data={data}"])
    templates = [Template(), *(Template(**options) for options in config.data.templates.values())]
    texts = {template.put("How many?") for template in templates}
    assert len(texts) == len(templates) >= 3
    assert all("How many?" in text for text in texts)


def test_a_template_may_be_given_on_the_command_line() -> None:
    given = '+data.templates.terse={text: "{prompt} Answer briefly."}'
    config = compose_experiment("smoke", [given, "data.template=terse"])
    data = make_data(config, make_task(config), load_backbone("codd_tiny"))
    assert data.template.put("How many?") == "How many? Answer briefly."


@pytest.mark.parametrize("options", ["{txt: 1}", "{text: no place}", "terse"])
def test_a_template_of_something_else_is_refused(options: str) -> None:
    config = compose_experiment("smoke", [f"+data.templates.terse={options}"])
    with pytest.raises(UserError, match=r"data\.templates"):
        make_data(config, make_task(config), load_backbone("codd_tiny"))
