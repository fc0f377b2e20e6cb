"""What sets one checkpoint format apart from another."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any


def unchanged(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration's own names serve the transformers class."""
    return dict(config)


@dataclass(frozen=True)
class Family:
    """How a checkpoint format maps onto a transformers class.

    Attributes:
        model_type: `model_type` of its config.json, which selects the family.
        model_class: name of the transformers class that runs its weights.
        config: from its config.json to that class's configuration arguments.
        key_mapping: from its weight names (regular expressions) to that class's.
        shifted: its row i predicts token i + 1.
        head: name of the module between the last hidden states and the output embeddings, in masked language models;
            their class keeps no keys and values.
        end_tokens: tokens, besides the tokenizer's own, that end a response where they exist.
        tokenizer_class: name of the transformers class that reads its tokenizer files.
    """

    model_type: str
    model_class: str
    config: Callable[[Mapping[str, Any]], dict[str, Any]] = unchanged
    key_mapping: Mapping[str, str] = field(default_factory=dict)
    shifted: bool = False
    head: str | None = None
    end_tokens: tuple[str, ...] = ()
    tokenizer_class: str = "PreTrainedTokenizerFast"
