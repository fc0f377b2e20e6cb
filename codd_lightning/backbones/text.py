"""From a prompt's text to a backbone's token ids."""

from typing import Any


def encode_prompt(prompt: str, tokenizer: Any) -> list[int]:
    """Token ids of a prompt, through the tokenizer's chat template where it has one."""
    if getattr(tokenizer, "chat_template", None):
        messages = [{"role": "user", "content": prompt}]
        text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        return tokenizer(text, add_special_tokens=False)["input_ids"]
    return tokenizer(prompt)["input_ids"]
