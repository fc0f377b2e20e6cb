"""Choices of the group `backbone`."""

from dataclasses import dataclass

from omegaconf import MISSING

from codd_lightning.configs.schema.fields import ranged


@dataclass
class PretrainedBackbone:
    """A backbone from a folder or the Hub."""

    _target_: str = "codd_lightning.backbones.load_backbone"
    path_or_repo: str = MISSING
    dtype: str = "float32"
    device: str = "cpu"
    attention: str = "sdpa"
    block_length: int | None = ranged(None, minimum=1)
    device_map: str | None = None
    quantization: str | None = None


@dataclass
class ScratchBackbone:
    """A small bidirectional Llama, made from scratch, with a tokenizer learnt from the training split."""

    _target_: str = "codd_lightning.backbones.new_backbone"
    tokenizer: str = "words"
    vocab_size: int = ranged(4096, minimum=8)
    tokenizer_examples: int = ranged(20000, minimum=1)
    hidden_size: int = ranged(128, minimum=1)
    num_layers: int = ranged(4, minimum=1)
    num_heads: int = ranged(4, minimum=1)
    intermediate_size: int = ranged(384, minimum=1)
    max_positions: int = ranged(512, minimum=1)
    rope_theta: float = ranged(10000.0, above=0.0)
    weight_spread: float = ranged(0.05, above=0.0)
    attention: str = "eager"


@dataclass
class ExactBackbone:
    """The true conditional marginals of a task whose answers can be listed."""

    _target_: str = "codd_lightning.backbones.exact_backbone"
