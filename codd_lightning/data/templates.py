"""How a problem is put to the backbone. Rankings of decoders flip with it (arXiv 2606.29228), so there are several."""

from dataclasses import dataclass
from typing import Any

from codd_lightning.backbones import encode_prompt
from codd_lightning.errors import UserError
from codd_lightning.tasks import Example

PLACE = "{prompt}"


@dataclass(frozen=True)
class Template:
    """The words around a problem.

    Attributes:
        text: with `{prompt}` where the problem stands.
        system: the system prompt, for tokenizers with a chat template; None for the template's own.
        chat: through the tokenizer's chat template, where it has one.

    Raises:
        UserError: the text has no place for the problem, or there is a system prompt without a chat.
    """

    text: str = PLACE
    system: str | None = None
    chat: bool = True

    def __post_init__(self) -> None:
        if PLACE not in self.text:
            raise UserError(f"data.templates: {self.text!r} has no {PLACE}, where the problem would stand")
        if self.system is not None and not self.chat:
            raise UserError(f"data.templates: the system prompt {self.system!r} has no effect with chat=false")

    def encode(self, example: Example, tokenizer: Any) -> list[int]:
        """Token ids of a problem, and of the worked examples before it, each put alike."""
        turns = [(self._put(asked), answered) for asked, answered in example.turns]
        return encode_prompt(self._put(example.prompt), tokenizer, turns, self.system, self.chat)

    def _put(self, prompt: str) -> str:
        return self.text.replace(PLACE, prompt)
