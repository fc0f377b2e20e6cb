"""The canvas: prompts on the left, responses on the right, and what has been committed so far."""

from collections.abc import Sequence

import torch
from torch import Tensor


class Canvas:
    """Token ids of `B` rows being denoised; prompts are padded on the left, so responses are aligned.

    Attributes:
        tokens: `(B, P + R)` long; the mask token where nothing is committed.
        masked: `(B, P + R)` bool, response positions not committed yet.
        attention_mask: `(B, P + R)` bool, False where padded.
        prompt_length: P.
    """

    def __init__(
        self, prompts: Sequence[Sequence[int]], response_length: int, mask_token_id: int, device: torch.device
    ) -> None:
        self.prompts = [list(prompt) for prompt in prompts]
        self.prompt_length = max((len(prompt) for prompt in prompts), default=0)
        width = self.prompt_length + response_length
        tokens = torch.full((len(prompts), width), mask_token_id)
        attention_mask = torch.ones_like(tokens, dtype=torch.bool)
        for row, prompt in enumerate(self.prompts):
            start = self.prompt_length - len(prompt)
            tokens[row, start : self.prompt_length] = torch.tensor(prompt, dtype=torch.long)
            tokens[row, :start] = prompt[0] if prompt else 0  # any valid id: padding is not attended to
            attention_mask[row, :start] = False
        self.tokens = tokens.to(device)
        self.attention_mask = attention_mask.to(device)
        self.masked = torch.zeros_like(self.attention_mask)
        self.masked[:, self.prompt_length :] = True

    def columns(self, start: int, length: int) -> Tensor:
        """`(length,)` columns of the response from its position `start`."""
        first = self.prompt_length + start
        return torch.arange(first, first + length, device=self.tokens.device)

    def commit(self, rows: Tensor, columns: Tensor, tokens: Tensor, where: Tensor) -> None:
        """Writes `(M, L)` tokens at `where` of some rows and columns; written tokens stay."""
        index = (rows[:, None].expand_as(where)[where], columns.expand_as(where)[where])
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
