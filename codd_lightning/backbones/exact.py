"""A backbone that knows all right answers, and predicts their true conditional marginals."""

from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from codd_lightning.backbones.tokenizers import word_tokenizer
from codd_lightning.errors import UserError

SEPARATOR = "="  # the last word of a prompt


class Listed(Protocol):
    """All right answers to a prompt, equally likely, and their marginals."""

    words: list[str]
    length: int

    def marginals(self, known: dict[int, str]) -> Any: ...


class Enumerable(Protocol):
    """A task whose right answers can be listed."""

    vocabulary: list[str]

    def answers(self, prompt: str) -> Listed: ...


class ExactBackbone(nn.Module):
    """The true conditional marginals of a task, given a prompt and a partly masked response.

    A response is an answer, then EOS to the end of the canvas. Where no right answer fits what is known, every word is
    as likely as any other.

    Args:
        task: lists its answers.
    """

    def __init__(self, task: Enumerable) -> None:
        super().__init__()
        self.tokenizer: PreTrainedTokenizerBase = word_tokenizer(task.vocabulary)
        self.vocab_size = len(self.tokenizer)
        self.mask_token_id = int(self.tokenizer.mask_token_id)
        self.eos_token_ids = [int(self.tokenizer.eos_token_id)]
        self._task = task
        self._answers: dict[str, Listed] = {}
        self._known: dict[tuple[str, tuple[int, ...]], Tensor] = {}
        ids = self.tokenizer.get_vocab()
        self._words = sorted(ids, key=ids.__getitem__)
        self._separator = ids[SEPARATOR]
        self._anything = torch.full((self.vocab_size,), -torch.inf)
        self._anything[[self.tokenizer.convert_tokens_to_ids(word) for word in task.vocabulary]] = 0.0

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Logits `(B, T, V)`; those of the prompt mean nothing."""
        rows = []
        for row, tokens in enumerate(input_ids.tolist()):
            attended = (
                range(len(tokens)) if attention_mask is None else attention_mask[row].nonzero().squeeze(-1).tolist()
            )
            logits = torch.zeros(len(tokens), self.vocab_size)
            if attended:
                logits[attended] = self._row([tokens[i] for i in attended])
            rows.append(logits)
        return torch.stack(rows).to(input_ids.device)

    def _row(self, tokens: list[int]) -> Tensor:
        """`(T, V)` logits of one row without padding, its prompt up to the separator."""
        if self._separator not in tokens:
            raise UserError(f"backbone=exact needs prompts that end with {SEPARATOR!r}")
        first = tokens.index(self._separator) + 1
        prompt = " ".join(self._words[token] for token in tokens[:first])
        response = tuple(tokens[first:])
        if (prompt, response) not in self._known:
            self._known[prompt, response] = self._response(prompt, response)
        return torch.cat([torch.zeros(first, self.vocab_size), self._known[prompt, response]])

    def _response(self, prompt: str, response: tuple[int, ...]) -> Tensor:
        if prompt not in self._answers:
            self._answers[prompt] = self._task.answers(prompt)
        answers, eos = self._answers[prompt], self.eos_token_ids[0]
        if len(response) < answers.length:
            raise UserError(f"a response of {len(response)} tokens has no room for the answers to {prompt!r}")
        logits = self._anything.repeat(len(response), 1)
        known = {i: self._words[t] for i, t in enumerate(response[: answers.length]) if t != self.mask_token_id}
        ends = all(token in (eos, self.mask_token_id) for token in response[answers.length :])
        marginals = answers.marginals(known) if ends else None
        if marginals is None:
            return logits
        places = self.tokenizer.convert_tokens_to_ids(answers.words)
        logits.fill_(-torch.inf)
        logits[: answers.length, places] = torch.as_tensor(marginals, dtype=torch.float32).log()
        logits[answers.length :, eos] = 0.0
        return logits


def exact_backbone(task: Any) -> ExactBackbone:
    """A backbone that knows all right answers of a task.

    Raises:
        UserError: the task's answers cannot be listed.
    """
    if not hasattr(task, "answers") or not hasattr(task, "vocabulary"):
        name = type(task).__name__
        raise UserError(f"backbone=exact lists a task's answers, and {name} has no list: use data=lists")
    return ExactBackbone(task)
