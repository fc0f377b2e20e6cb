"""From a prompt's text to a backbone's token ids."""

from typing import Any

from codd_lightning.errors import UserError


def encode_prompt(prompt: str, tokenizer: Any, system: str | None = None, chat: bool = True) -> list[int]:
    """Token ids of a prompt, through the tokenizer's chat template where it has one.

    Args:
        prompt: what the user says.
        tokenizer: of the backbone.
        system: the system prompt; None for what the chat template puts there by itself.
        chat: False gives the bare text, with the tokenizer's own special tokens.

    Raises:
        UserError: there is a system prompt and no chat template.
    """
    if chat and getattr(tokenizer, "chat_template", None):
        messages = [{"role": "user", "content": prompt}]
        if system is not None:
            messages.insert(0, {"role": "system", "content": system})
        text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        return tokenizer(text, add_special_tokens=False)["input_ids"]
    if system is not None:
        raise UserError(f"the system prompt {system!r} needs a chat template, and the backbone's tokenizer has none")
    return tokenizer(prompt)["input_ids"]
