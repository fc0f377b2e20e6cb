"""The canvas: what is given, what is masked, and what has been committed so far."""

from collections.abc import Sequence

import torch
from torch import Tensor


class Canvas:
    """Token ids of `B` rows being denoised.

    Attributes:
        tokens: `(B, T)` long; the mask token where nothing is committed.
        masked: `(B, T)` bool, positions not committed yet.
        attention_mask: `(B, T)` bool, False where padded.
        prompt_length: columns before what is denoised.
        width: columns that are denoised.
    """

    def __init__(self, tokens: Tensor, masked: Tensor, attention_mask: Tensor, prompt_length: int) -> None:
        self.tokens, self.masked, self.attention_mask, self.prompt_length = (
            tokens,
            masked,
            attention_mask,
            prompt_length,
        )
        self.width = tokens.shape[1] - prompt_length

    @classmethod
    def of_prompts(
        cls, prompts: Sequence[Sequence[int]], response_length: int, mask_token_id: int, device: torch.device
    ) -> "Canvas":
        """Prompts padded on the left, so that responses are aligned, and a masked response after each."""
        prompt_length = max((len(prompt) for prompt in prompts), default=0)
        tokens = torch.full((len(prompts), prompt_length + response_length), mask_token_id)
        attention_mask = torch.ones_like(tokens, dtype=torch.bool)
        for row, prompt in enumerate(prompts):
            start = prompt_length - len(prompt)
            tokens[row, start:prompt_length] = torch.tensor(prompt, dtype=torch.long)
            tokens[row, :start] = prompt[0] if prompt else 0  # any valid id: padding is not attended to
            attention_mask[row, :start] = False
        masked = torch.zeros_like(attention_mask)
        masked[:, prompt_length:] = True
        return cls(tokens.to(device), masked.to(device), attention_mask.to(device), prompt_length)

    @classmethod
    def of_gaps(
        cls, texts: Sequence[Sequence[int]], mask_token_id: int, device: torch.device, multiple: int
    ) -> "Canvas":
        """Texts with masks in them, padded on the right to a multiple, so that blocks are counted from their starts."""
        longest = max((len(text) for text in texts), default=0)
        tokens = torch.zeros(len(texts), -(-longest // multiple) * multiple, dtype=torch.long)
        attention_mask = torch.zeros_like(tokens, dtype=torch.bool)
        for row, text in enumerate(texts):
            tokens[row, : len(text)] = torch.tensor(text, dtype=torch.long)
            attention_mask[row, : len(text)] = True
        masked = (tokens == mask_token_id) & attention_mask
        return cls(tokens.to(device), masked.to(device), attention_mask.to(device), 0)

    def columns(self, start: int, length: int) -> Tensor:
        """`(length,)` columns of what is denoised, from its position `start`."""
        first = self.prompt_length + start
        return torch.arange(first, first + length, device=self.tokens.device)

    def commit(self, rows: Tensor, columns: Tensor, tokens: Tensor, where: Tensor) -> None:
        """Writes `(M, L)` tokens at `where` of some rows and their `(M, L)` columns; written tokens stay."""
        index = (rows[:, None].expand_as(where)[where], columns[where])
        self.tokens[index] = tokens[where]
        self.masked[index] = False

    def finished(self, eos_token_ids: Tensor) -> Tensor:
        """`(B,)` bool: rows whose response has an EOS with no mask to its left."""
        return self._ends(eos_token_ids) < self.tokens.shape[1]

    def responses(self, eos_token_ids: Tensor, stop_at_eos: bool) -> list[list[int]]:
        """Token ids of each response, up to and including its EOS where the row has finished."""
        ends = self._ends(eos_token_ids).tolist()
        width = self.tokens.shape[1]
        rows = self.tokens[:, self.prompt_length :].tolist()
        return [
            row[: end + 1 - self.prompt_length] if stop_at_eos and end < width else row
            for row, end in zip(rows, ends, strict=True)
        ]

    def _ends(self, eos_token_ids: Tensor) -> Tensor:
        """`(B,)` column of the first EOS of each response with no mask to its left; the width if none."""
        width = self.tokens.shape[1]
        column = torch.arange(width, device=self.tokens.device)
        in_response = column >= self.prompt_length
        eos = torch.isin(self.tokens, eos_token_ids) & in_response & ~self.masked
        first_eos = torch.where(eos, column, width).amin(-1)
        first_mask = torch.where(self.masked, column, width).amin(-1)
        return torch.where(first_eos < first_mask, first_eos, width)
