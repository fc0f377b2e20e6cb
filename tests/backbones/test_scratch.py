import re

import pytest
import torch
from torch import Tensor

from codd_lightning.backbones import new_backbone
from codd_lightning.backbones.loading import require_bidirectional
from codd_lightning.backbones.tokenizers import train_tokenizer
from codd_lightning.errors import UserError

from .fixtures import TEXTS, tiny

SPECIAL = ["<pad>", "<eos>", "<mask>", "<unk>"]


# Tokenizers


@pytest.mark.parametrize("kind", ["words", "bpe"])
def test_special_tokens_come_first_and_are_known_by_their_part(kind: str) -> None:
    tokenizer = train_tokenizer(TEXTS, kind, 300)
    assert tokenizer.convert_ids_to_tokens([0, 1, 2, 3]) == SPECIAL
    parts = (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.mask_token_id, tokenizer.unk_token_id)
    assert parts == (0, 1, 2, 3)


def test_words_numbers_and_marks_are_tokens() -> None:
    tokenizer = train_tokenizer(TEXTS, "words", 100)
    assert tokenizer.tokenize("Ann has 14 apples.") == ["Ann", "has", "14", "apples", "."]
    tokens = set(tokenizer.get_vocab()) - set(SPECIAL)
    assert tokens == {token for text in TEXTS for token in re.findall(r"\w+|[^\w\s]", text)}


def test_words_never_seen_are_unknown() -> None:
    tokenizer = train_tokenizer(TEXTS, "words", 100)
    assert tokenizer.tokenize("Ann has 99 apples") == ["Ann", "has", "<unk>", "apples"]


@pytest.mark.parametrize("number", ["7", "2025", "0007"])
def test_byte_pairs_take_digits_one_by_one(number: str) -> None:
    tokenizer = train_tokenizer([*TEXTS, "2025 2025 2025 2025"], "bpe", 400)
    assert tokenizer.tokenize(number) == list(number)
    assert tokenizer.tokenize(f"has {number} pears")[-len(number) - 1 : -1] == list(number)


@pytest.mark.parametrize("text", ["Ann has 17 apples.", "naïve 12 × 34 = 408\n\tsì", "  two  spaces ", "日本"])
def test_byte_pairs_give_any_text_back(text: str) -> None:
    tokenizer = train_tokenizer(TEXTS, "bpe", 300)
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


@pytest.mark.parametrize("text", TEXTS)
def test_words_give_the_texts_they_are_learnt_from_back(text: str) -> None:
    tokenizer = train_tokenizer(TEXTS, "words", 100)
    decoded = tokenizer.decode(tokenizer(text)["input_ids"])
    assert decoded.replace(" ", "") == text.replace(" ", "")
    assert tokenizer(decoded)["input_ids"] == tokenizer(text)["input_ids"]


@pytest.mark.parametrize(("kind", "vocab_size"), [("words", 8), ("words", 100), ("bpe", 270), ("bpe", 400)])
def test_vocabularies_are_no_larger_than_asked(kind: str, vocab_size: int) -> None:
    tokenizer = train_tokenizer(TEXTS * 3, kind, vocab_size)
    assert len(tokenizer) <= vocab_size
    assert max(tokenizer.get_vocab().values()) == len(tokenizer) - 1


@pytest.mark.parametrize(("kind", "vocab_size"), [("words", 3), ("bpe", 100)])
def test_vocabularies_too_small_for_what_must_be_in_them_are_refused(kind: str, vocab_size: int) -> None:
    with pytest.raises(UserError, match=f"vocab_size={vocab_size}"):
        train_tokenizer(TEXTS, kind, vocab_size)


def test_an_unknown_kind_of_tokenizer_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UserError, match=r"tokenizer=letters is not one of words, bpe"):
        train_tokenizer(TEXTS, "letters", 100)
    with pytest.raises(UserError, match=r"tokenizer=letters is not one of words, bpe"):
        tiny(tokenizer="letters")


# Backbones


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_new_backbone_is_bidirectional(attention: str) -> None:
    backbone = tiny(attention=attention)
    require_bidirectional(backbone)
    assert backbone.model.config._attn_implementation == attention


def test_a_new_backbone_has_the_shape_and_the_special_tokens_asked_for() -> None:
    backbone = tiny()
    config = backbone.model.config
    assert (config.hidden_size, config.num_hidden_layers, config.num_attention_heads) == (16, 2, 2)
    assert (config.intermediate_size, config.max_position_embeddings) == (32, 64)
    assert backbone.vocab_size == len(backbone.tokenizer)
    assert (backbone.mask_token_id, backbone.eos_token_ids) == (2, [1])
    ids = torch.tensor([[4, 2, 5]])
    assert backbone(ids).shape == (1, 3, backbone.vocab_size)


def test_the_head_of_a_new_backbone_is_its_embedding() -> None:
    model = tiny().model
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


def test_rope_theta_reaches_the_model() -> None:
    ids = torch.tensor([[4, 2, 5, 6]])
    assert (tiny(rope_theta=10.0)(ids) - tiny(rope_theta=1e6)(ids)).abs().max() > 1e-4


def flat(**changes: object) -> Tensor:
    return torch.cat([p.flatten() for p in tiny(**changes).parameters()])


def test_weights_are_those_of_the_seed() -> None:
    assert torch.equal(flat(seed=3), flat(seed=3))
    assert not torch.equal(flat(seed=3), flat(seed=4))


def test_a_new_backbone_leaves_the_random_numbers_of_the_process_as_they_were() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    tiny(seed=1)
    assert torch.equal(torch.rand(3), expected)


def test_weights_have_the_spread_asked_for() -> None:
    wide = tiny(weight_spread=0.5, hidden_size=64, intermediate_size=128)
    weights = wide.model.model.layers[0].mlp.gate_proj.weight
    assert weights.std().item() == pytest.approx(0.5, rel=0.05)


def test_texts_may_be_read_once_only() -> None:
    arguments = {"hidden_size": 16, "num_layers": 1, "num_heads": 2, "intermediate_size": 32, "max_positions": 8}
    backbone = new_backbone(
        iter(TEXTS),
        tokenizer="words",
        vocab_size=50,
        rope_theta=100.0,
        weight_spread=0.1,
        attention="eager",
        seed=0,
        **arguments,
    )
    assert "apples" in backbone.tokenizer.get_vocab()
