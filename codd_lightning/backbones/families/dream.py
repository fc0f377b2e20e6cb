"""Dream (Ye et al., arXiv 2508.15487), Dream-Coder, DiffuCoder: a Qwen2 whose logits are one position late."""

from codd_lightning.backbones.families.family import Family

DREAM = Family(
    model_type="Dream",
    model_class="Qwen2ForCausalLM",
    shifted=True,
    end_tokens=("<|endoftext|>", "<|im_end|>"),
    tokenizer_class="Qwen2Tokenizer",
)
