from codd_lightning.backbones import encode_prompt
from codd_lightning.backbones.tokenizers import train_tokenizer

from .fixtures import TEXTS

TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }} has {{ message['content'] }}. {% endfor %}"
    "{% if add_generation_prompt %}She{% endif %}"
)


def test_a_prompt_without_chat_template_is_its_tokens() -> None:
    tokenizer = train_tokenizer(TEXTS, "words", 100)
    ids = encode_prompt("Ann has 3 pears", tokenizer)
    assert tokenizer.convert_ids_to_tokens(ids) == ["Ann", "has", "3", "pears"]


def test_a_prompt_goes_through_the_chat_template_as_the_users_message() -> None:
    tokenizer = train_tokenizer([*TEXTS, "user"], "words", 100)
    tokenizer.chat_template = TEMPLATE
    ids = encode_prompt("3 pears", tokenizer)
    assert tokenizer.convert_ids_to_tokens(ids) == ["user", "has", "3", "pears", ".", "She"]


def test_worked_examples_are_earlier_turns_of_the_conversation() -> None:
    tokenizer = train_tokenizer([*TEXTS, "user assistant"], "words", 100)
    turns = [("3", "pears"), ("Ann", "3")]
    plain = tokenizer.convert_ids_to_tokens(encode_prompt("Ann has", tokenizer, turns))
    assert plain == ["3", "pears", "Ann", "3", "Ann", "has"]
    tokenizer.chat_template = TEMPLATE
    chat = tokenizer.convert_ids_to_tokens(encode_prompt("3 pears", tokenizer, turns))
    assert " ".join(chat) == (
        "user has 3 . assistant has pears . user has Ann . assistant has 3 . user has 3 pears . She"
    )
