"""Small tokenizers for backbones that are trained from scratch."""

from collections.abc import Iterable

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from codd_lightning.errors import UserError

PAD, EOS, MASK, UNKNOWN = "<pad>", "<eos>", "<mask>", "<unk>"
KINDS = ("words", "bpe")


def train_tokenizer(texts: Iterable[str], kind: str, vocab_size: int) -> PreTrainedTokenizerFast:
    """A tokenizer of the words of some texts, or of their byte pairs.

    Args:
        texts: what to learn from.
        kind: "words": every word, number and mark is a token; "bpe": byte pairs, digits one by one.
        vocab_size: at most this many tokens.

    Raises:
        UserError: the kind is unknown.
    """
    special = [PAD, EOS, MASK, UNKNOWN]
    if vocab_size < len(special) + (256 if kind == "bpe" else 1):
        raise UserError(f"backbone.vocab_size={vocab_size} is too small")
    if kind == "words":
        tokenizer = Tokenizer(models.WordLevel(unk_token=UNKNOWN))
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        tokenizer.decoder = decoders.WordPiece(prefix="##", cleanup=True)
        trainer: trainers.Trainer = trainers.WordLevelTrainer(
            vocab_size=vocab_size, special_tokens=special, show_progress=False
        )
    elif kind == "bpe":
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=special,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
    else:
        raise UserError(f"backbone.tokenizer={kind} is not one of {', '.join(KINDS)}")
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, eos_token=EOS, mask_token=MASK, unk_token=UNKNOWN
    )


def word_tokenizer(words: Iterable[str]) -> PreTrainedTokenizerFast:
    """A tokenizer in which every one of some words, set apart by spaces, is a token."""
    listed = list(dict.fromkeys([PAD, EOS, MASK, UNKNOWN, *words]))
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(listed)}, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, eos_token=EOS, mask_token=MASK, unk_token=UNKNOWN
    )
