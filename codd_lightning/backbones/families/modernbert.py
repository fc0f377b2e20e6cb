"""ModernBERT chats of dllm: a masked language model, denoised step by step."""

from codd_lightning.backbones.families.family import Family

MODERNBERT = Family("modernbert", "ModernBertForMaskedLM", head="head", end_tokens=("[SEP]",))
