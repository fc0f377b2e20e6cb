"""Decoders, and what is measured."""

from dataclasses import dataclass, field

from omegaconf import MISSING

from codd_lightning.configs.schema.fields import ranged


@dataclass
class Decoding:
    """Options of every decoder; see `DecodingConfig`."""

    paradigm: str = "block"
    schedule: str = "even"
    commit: str = "quota"
    commit_bound: float | None = ranged(None, minimum=0.0)
    commit_reads: str = "backbone"
    gamma: float = ranged(1.0, minimum=0.0, maximum=1.0)
    gamma_share: str = "window"
    strict_gamma: bool = False
    reverse_gamma: bool = False
    tau: float = ranged(0.0, minimum=0.0)
    tuned: bool = False
    temperature: float = ranged(0.0, minimum=0.0)
    top_p: float | None = ranged(None, above=0.0, maximum=1.0)
    top_k: int | None = ranged(None, minimum=1)
    suppress_tokens: list[int] = field(default_factory=list)
    cache: str = "none"
    cfg_scale: float = ranged(0.0, minimum=0.0)
    evidence_top_k: int | None = ranged(None, minimum=1)


@dataclass
class Decoder:
    """One row of the final table: a proposal, an order, an EOS rule, and a commit rule where it is not that of all."""

    proposal: str = MISSING
    remasking: str = "low_confidence"
    eos: str = "any"
    commit: str | None = None
    commit_bound: float | None = ranged(None, minimum=0.0)
    commit_reads: str | None = None


@dataclass
class Evaluation:
    """What is measured on the test split at the end."""

    decoders: list[Decoder] = field(default_factory=list)
    steps_per_block: list[int] = field(default_factory=lambda: [1, 2, 4, 8, 16, 32])
    examples: int = ranged(500, minimum=0)
    likelihood_examples: int = ranged(500, minimum=0)
    likelihood_canvas: str = "uniform"
    sequential_likelihood: bool = False
    sample_likelihood: bool = False
    barrier_examples: int = ranged(0, minimum=0)
    templates: list[str] = field(default_factory=list)
    batch_size: int = ranged(128, minimum=1)
    batch_tokens: int | None = ranged(None, minimum=1)


@dataclass
class Tuning:
    """What `codd tune` tries on held-out problems."""

    gammas: list[float] = field(default_factory=lambda: [1.0, 0.75, 0.5, 0.25])
    taus: list[float] = field(default_factory=lambda: [0.0, 0.3, 0.6, 1.0])
    steps_per_block: list[int] = field(default_factory=lambda: [4])
    examples: int = ranged(256, minimum=1)
