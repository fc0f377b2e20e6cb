"""LLaDA (Nie et al., arXiv 2502.09992): a Llama under the weight names of OLMo."""

from collections.abc import Mapping
from typing import Any

from codd_lightning.backbones.families.family import Family


def _config(original: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "vocab_size": original.get("embedding_size") or original["vocab_size"],
        "hidden_size": original["d_model"],
        "intermediate_size": original["mlp_hidden_size"],
        "num_hidden_layers": original["n_layers"],
        "num_attention_heads": original["n_heads"],
        "num_key_value_heads": original.get("n_kv_heads") or original["n_heads"],
        "max_position_embeddings": original["max_sequence_length"],
        "rope_theta": original["rope_theta"],
        "rms_norm_eps": original["rms_norm_eps"],
        "tie_word_embeddings": original.get("weight_tying", False),
        "attention_bias": original.get("include_qkv_bias", False),
        "mlp_bias": original.get("include_bias", False),
        "eos_token_id": original.get("eos_token_id"),
        "pad_token_id": original.get("pad_token_id"),
        "bos_token_id": None,
        "mask_token_id": original.get("mask_token_id"),
    }


_BLOCK = r"^model\.transformer\.blocks\.(\d+)\."
LLADA = Family(
    model_type="llada",
    model_class="LlamaForCausalLM",
    config=_config,
    key_mapping={
        r"^model\.transformer\.wte\.": "model.embed_tokens.",
        _BLOCK + r"attn_norm\.": r"model.layers.\1.input_layernorm.",
        **{_BLOCK + rf"{name}_proj\.": rf"model.layers.\1.self_attn.{name}_proj." for name in "qkv"},
        _BLOCK + r"attn_out\.": r"model.layers.\1.self_attn.o_proj.",
        _BLOCK + r"ff_norm\.": r"model.layers.\1.post_attention_layernorm.",
        _BLOCK + r"ff_proj\.": r"model.layers.\1.mlp.gate_proj.",
        _BLOCK + r"up_proj\.": r"model.layers.\1.mlp.up_proj.",
        _BLOCK + r"ff_out\.": r"model.layers.\1.mlp.down_proj.",
        r"^model\.transformer\.ln_f\.": "model.norm.",
        r"^model\.transformer\.ff_out\.": "lm_head.",
    },
    end_tokens=("<|endoftext|>", "<|eot_id|>"),
)
