"""Backbones made from scratch: small bidirectional Llamas."""

import json
from collections.abc import Iterable
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from codd_lightning.backbones.backbone import Backbone
from codd_lightning.backbones.tokenizers import train_tokenizer


def new_backbone(
    texts: Iterable[str],
    *,
    tokenizer: str,
    vocab_size: int,
    hidden_size: int,
    num_layers: int,
    num_heads: int,
    intermediate_size: int,
    max_positions: int,
    rope_theta: float,
    weight_spread: float,
    attention: str,
    seed: int,
) -> Backbone:
    """An untrained bidirectional Llama, its head tied to its embedding, and a tokenizer of some texts.

    Args:
        texts: what the tokenizer is learnt from.
        tokenizer: its kind, "words" or "bpe".
        vocab_size: at most this many tokens.
        hidden_size, num_layers, num_heads, intermediate_size, max_positions: shape of the transformer.
        rope_theta: base of the rotary embedding; smaller ones resolve short texts better.
        weight_spread: standard deviation of the initial weights.
        attention: the kernel, "sdpa" or "eager" (in bfloat16 on a CPU twice as fast to train).
        seed: of the initial weights.
    """
    words = train_tokenizer(texts, tokenizer, vocab_size)
    config = LlamaConfig(
        vocab_size=len(words),
        hidden_size=hidden_size,
        num_hidden_layers=num_layers,
        num_attention_heads=num_heads,
        num_key_value_heads=num_heads,
        intermediate_size=intermediate_size,
        max_position_embeddings=max_positions,
        rope_parameters={"rope_type": "default", "rope_theta": rope_theta},
        initializer_range=weight_spread,
        tie_word_embeddings=True,
        pad_token_id=words.pad_token_id,
        eos_token_id=words.eos_token_id,
        bos_token_id=None,
        use_cache=False,
    )
    # no fields of LlamaConfig: transformers reads the first, load_backbone both
    config.is_causal = False
    config.mask_token_id = words.mask_token_id
    config._attn_implementation = attention
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    return Backbone(model, words.mask_token_id, [words.eos_token_id], words)


def save_backbone(backbone: Backbone, folder: str | Path) -> None:
    """Writes a backbone and its tokenizer as a Hugging Face folder that `load_backbone` reads."""
    folder = Path(folder)
    backbone.model.save_pretrained(folder)
    if backbone.original_config is not None:  # the weights go back to the names of their format
        (folder / "config.json").write_text(json.dumps(backbone.original_config, indent=2))
    if backbone.tokenizer is not None:
        backbone.tokenizer.save_pretrained(folder)
