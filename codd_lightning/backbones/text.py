"""From a prompt's text to a backbone's token ids."""

from collections.abc import Sequence
from typing import Any


def encode_prompt(prompt: str, tokenizer: Any, turns: Sequence[tuple[str, str]] = ()) -> list[int]:
    """Token ids of a prompt, through the tokenizer's chat template where it has one.

    Args:
        prompt: what is asked.
        tokenizer: of the backbone.
        turns: (prompt, response) pairs before it; without a chat template, text on lines of their own.
    """
    if getattr(tokenizer, "chat_template", None):
        messages = [
            {"role": role, "content": text}
            for turn in turns
            for role, text in zip(("user", "assistant"), turn, strict=True)
        ]
        messages.append({"role": "user", "content": prompt})
        text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        return tokenizer(text, add_special_tokens=False)["input_ids"]
    worked = "".join(f"{asked}\n{answered}\n\n" for asked, answered in turns)
    return tokenizer(worked + prompt)["input_ids"]
