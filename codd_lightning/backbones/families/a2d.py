"""dllm's models converted from autoregressive ones ("a2d"): weights under their own names, no shift."""

from codd_lightning.backbones.families.family import Family

A2D_QWEN3 = Family("a2d-qwen3", "Qwen3ForCausalLM", end_tokens=("<|im_end|>", "<|endoftext|>"))
A2D_QWEN2 = Family("a2d-qwen2", "Qwen2ForCausalLM", end_tokens=("<|im_end|>", "<|endoftext|>"))
A2D_LLAMA = Family("a2d-llama", "LlamaForCausalLM", end_tokens=("<|eot_id|>", "<|end_of_text|>"))
