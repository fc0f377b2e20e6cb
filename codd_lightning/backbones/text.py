"""From a prompt's text to a backbone's token ids."""

from collections.abc import Sequence
from typing import Any

from codd_lightning.errors import UserError


def encode_prompt(
    prompt: str,
    tokenizer: Any,
    turns: Sequence[tuple[str, str]] = (),
    system: str | None = None,
    chat: bool = True,
) -> list[int]:
    """Token ids of a prompt, through the tokenizer's chat template where it has one.

    Args:
        prompt: what the user says.
        tokenizer: of the backbone.
        turns: (prompt, response) pairs before it; without a chat template, text on lines of their own.
        system: the system prompt; None for what the chat template puts there by itself.
        chat: False gives the bare text, with the tokenizer's own special tokens.

    Raises:
        UserError: there is a system prompt and no chat template.
    """
    if chat and getattr(tokenizer, "chat_template", None):
        messages = [] if system is None else [{"role": "system", "content": system}]
        for asked, answered in turns:
            messages += [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]
        messages.append({"role": "user", "content": prompt})
        text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        return tokenizer(text, add_special_tokens=False)["input_ids"]
    if system is not None:
        raise UserError(f"the system prompt {system!r} needs a chat template, and the backbone's tokenizer has none")
    worked = "".join(f"{asked}\n{answered}\n\n" for asked, answered in turns)
    return tokenizer(worked + prompt)["input_ids"]
