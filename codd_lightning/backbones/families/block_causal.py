"""Qwen models turned into block diffusion: SDAR (arXiv 2510.06303) and Fast-dLLM v2 (arXiv 2509.26328)."""

from collections.abc import Mapping
from typing import Any

from codd_lightning.backbones.families.family import Family


def _without_kernel(original: Mapping[str, Any]) -> dict[str, Any]:
    """Their configuration names the attention kernel of their own code."""
    return {key: value for key, value in original.items() if key != "attn_implementation"}


SDAR = Family(
    "sdar",
    "Qwen3ForCausalLM",
    config=_without_kernel,
    end_tokens=("<|im_end|>", "<|endoftext|>"),
)
FAST_DLLM_V2 = Family(
    "Fast_dLLM_Qwen",
    "Qwen2ForCausalLM",
    config=_without_kernel,
    shifted=True,
    end_tokens=("<|im_end|>", "<|endoftext|>"),
)
