"""From examples to token ids, and onto one canvas."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from codd_lightning.data import Encoded, collate, encode
from codd_lightning.tasks import Example

PAD, EOS = 90, 91

encoded_rows = st.lists(
    st.tuples(st.lists(st.integers(0, 50), max_size=6), st.lists(st.integers(0, 50), min_size=1, max_size=9)),
    min_size=1,
    max_size=5,
)


def text(*numbers: int) -> str:
    return " ".join(f"w{i}" for i in numbers)


@pytest.mark.parametrize(("words_in_it", "length"), [(1, 4), (3, 4), (4, 8), (7, 8), (8, 12)])
def test_a_response_is_closed_and_filled_to_whole_blocks_with_eos(
    words_in_it: int, length: int, words: PreTrainedTokenizerFast
) -> None:
    encoded = encode(Example(text(1, 2), text(*range(words_in_it))), 5, words, EOS, block_length=4)
    ids = [words.convert_tokens_to_ids(f"w{i}") for i in range(words_in_it)]
    assert encoded.response == ids + [EOS] * (length - words_in_it)
    assert encoded.prompt == words.convert_tokens_to_ids(["w1", "w2"])
    assert encoded.index == 5


def test_worked_examples_stand_before_the_prompt(words: PreTrainedTokenizerFast) -> None:
    worked = encode(Example(text(1), text(2), turns=((text(3), text(4)),)), 0, words, EOS, block_length=4)
    assert worked.prompt == words.convert_tokens_to_ids(["w3", "w4", "w1"])
    assert worked.response == encode(Example(text(1), text(2)), 0, words, EOS, block_length=4).response


def test_a_response_is_filled_to_the_canvas_of_decoding(words: PreTrainedTokenizerFast) -> None:
    short = encode(Example(text(1), text(1, 2)), 0, words, EOS, block_length=4, response_length=12)
    assert short.response == [*words.convert_tokens_to_ids(["w1", "w2"]), *[EOS] * 10]
    long = encode(Example(text(1), text(*range(13))), 0, words, EOS, block_length=4, response_length=12)
    assert len(long.response) == 16  # too long stays too long: nothing is cut


def test_a_chat_template_is_used_for_prompts_alone(words: PreTrainedTokenizerFast) -> None:
    words.chat_template = (
        "{% for m in messages %}w7 {{ m['content'] }} w8 {% endfor %}{% if add_generation_prompt %}w9{% endif %}"
    )
    encoded = encode(Example(text(1, 2), text(3)), 0, words, EOS, block_length=2)
    assert encoded.prompt == words.convert_tokens_to_ids(["w7", "w1", "w2", "w8", "w9"])
    assert encoded.response == [words.convert_tokens_to_ids("w3"), EOS]


@given(rows=encoded_rows)
def test_collated_responses_start_together_and_nothing_else_is_attended_to(
    rows: list[tuple[list[int], list[int]]],
) -> None:
    batch = collate([Encoded(7 * i, *row) for i, row in enumerate(rows)], PAD)
    prompt_length, response_length = max(len(p) for p, _ in rows), max(len(r) for _, r in rows)
    assert batch.prompt_length == prompt_length
    assert len(batch) == len(rows)
    assert batch.index.tolist() == [7 * i for i in range(len(rows))]
    for tensor in (batch.input_ids, batch.attention_mask, batch.response_mask):
        assert tensor.shape == (len(rows), prompt_length + response_length)
    for i, (prompt, response) in enumerate(rows):
        left, right = prompt_length - len(prompt), response_length - len(response)
        assert batch.input_ids[i].tolist() == [PAD] * left + prompt + response + [PAD] * right
        assert batch.attention_mask[i].tolist() == [False] * left + [True] * len(prompt + response) + [False] * right
        assert batch.response_mask[i].tolist() == [False] * prompt_length + [True] * len(response) + [False] * right


def test_a_batch_moves_whole() -> None:
    batch = collate([Encoded(0, [1], [2, 3])], PAD).to("meta")
    for tensor in (batch.input_ids, batch.attention_mask, batch.response_mask, batch.index):
        assert tensor.device == torch.device("meta")
    assert batch.prompt_length == 1
