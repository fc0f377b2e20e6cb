"""Small bidirectional Llamas in plain Hugging Face format, `codd_tiny` among them."""

from collections.abc import Mapping
from typing import Any

from codd_lightning.backbones.families.family import Family
from codd_lightning.errors import UserError


def _config(original: Mapping[str, Any]) -> dict[str, Any]:
    if original.get("is_causal") is not False:
        raise UserError(
            "config.json describes an autoregressive Llama; a masked-diffusion backbone says is_causal: false there"
        )
    return dict(original)


LLAMA = Family("llama", "LlamaForCausalLM", config=_config)
