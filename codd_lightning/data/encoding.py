"""From examples to token ids: prompt, response, and where one ends and the other begins."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from codd_lightning.data.templates import Template
from codd_lightning.tasks import Example


@dataclass(frozen=True)
class Encoded:
    """One example as token ids; the response ends with EOS, and more EOS fill its last block or its canvas."""

    index: int
    prompt: list[int]
    response: list[int]


@dataclass(frozen=True)
class Batch:
    """Encoded examples on one canvas: prompts padded on the left, so that all responses start together.

    Attributes:
        input_ids: `(B, T)` long, clean tokens.
        attention_mask: `(B, T)` bool, False where padded.
        response_mask: `(B, T)` bool, True on responses with their EOS padding.
        prompt_length: columns before the responses.
        index: `(B,)` long, the examples' numbers in their split.
    """

    input_ids: Tensor
    attention_mask: Tensor
    response_mask: Tensor
    prompt_length: int
    index: Tensor

    def to(self, device: torch.device | str) -> "Batch":
        """The batch on a device."""
        return Batch(
            self.input_ids.to(device),
            self.attention_mask.to(device),
            self.response_mask.to(device),
            self.prompt_length,
            self.index.to(device),
        )

    def rows(self, index: Tensor) -> "Batch":
        """Some of its examples."""
        return Batch(
            self.input_ids[index],
            self.attention_mask[index],
            self.response_mask[index],
            self.prompt_length,
            self.index[index],
        )

    def __len__(self) -> int:
        return len(self.index)


def encode(
    example: Example,
    index: int,
    tokenizer: Any,
    eos_token_id: int,
    block_length: int,
    response_length: int | None = None,
    template: Template | None = None,
) -> Encoded:
    """Token ids of one example.

    Args:
        example: prompt and response.
        index: its number in its split.
        tokenizer: of the backbone.
        eos_token_id: closes the response and fills its last block.
        block_length: a response becomes a whole number of blocks.
        response_length: fill shorter responses to this length, the canvas of decoding; None for whole blocks.
        template: of the prompt; the bare problem if None.
    """
    response = [*tokenizer(example.response, add_special_tokens=False)["input_ids"], eos_token_id]
    response += [eos_token_id] * (-len(response) % block_length)
    response += [eos_token_id] * ((response_length or 0) - len(response))
    prompt = (template or Template()).encode(example, tokenizer)
    return Encoded(index, prompt, response)


def collate(rows: Sequence[Encoded], pad_token_id: int) -> Batch:
    """Puts rows on one canvas."""
    prompt_length = max(len(row.prompt) for row in rows)
    response_length = max(len(row.response) for row in rows)
    shape = (len(rows), prompt_length + response_length)
    input_ids = torch.full(shape, pad_token_id)
    attention_mask = torch.zeros(shape, dtype=torch.bool)
    for i, row in enumerate(rows):
        start, end = prompt_length - len(row.prompt), prompt_length + len(row.response)
        input_ids[i, start:end] = torch.tensor(row.prompt + row.response)
        attention_mask[i, start:end] = True
    response_mask = attention_mask.clone()
    response_mask[:, :prompt_length] = False
    return Batch(input_ids, attention_mask, response_mask, prompt_length, torch.tensor([row.index for row in rows]))
