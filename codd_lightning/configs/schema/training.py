"""Objectives, optimizers and the trainer."""

from dataclasses import dataclass
from typing import Any

from omegaconf import MISSING

from codd_lightning.configs.schema.fields import ranged


@dataclass
class Noised:
    """How training and validation mask a response."""

    canvas: str = "uniform"
    fully_masked: float = ranged(0.0, minimum=0.0, maximum=1.0)
    from_left: float = ranged(0.0, minimum=0.0, maximum=1.0)


@dataclass
class CoupledLikelihood(Noised):
    """Train a circuit on the frozen backbone (paper Eq. 7)."""

    _target_: str = "codd_lightning.modules.CircuitModule"
    weight: str = "inverse_t"
    evidence_top_k: int | None = ranged(None, minimum=1)


@dataclass
class JointLikelihood(CoupledLikelihood):
    """Train a circuit and its backbone together."""

    _target_: str = "codd_lightning.modules.JointModule"
    backbone_lr: float = ranged(1e-4, above=0.0)
    lora_rank: int | None = ranged(None, minimum=1)


@dataclass
class Likelihood(Noised):
    """Train a circuit on clean text alone; the canvas is that of validation."""

    _target_: str = "codd_lightning.modules.CircuitModule"
    conditional: bool = False
    weight: str = "flat"
    evidence_top_k: int | None = ranged(None, minimum=1)


@dataclass
class MaskedDiffusion(Noised):
    """Train a backbone."""

    _target_: str = "codd_lightning.modules.BackboneModule"
    weight: str = "inverse_t"


@dataclass
class DiffuGRPO:
    """Train a backbone by the strict grades of its own responses."""

    _target_: str = "codd_lightning.modules.PolicyModule"
    group_size: int = ranged(8, minimum=2)
    inner_updates: int = ranged(4, minimum=1)
    prompt_masking: float = ranged(0.15, minimum=0.0, maximum=1.0)
    clip: float = ranged(0.5, above=0.0)
    kl: float = ranged(0.04, minimum=0.0)
    steps_per_block: int = ranged(8, minimum=1)
    remasking: str = "low_confidence"
    eos: str = "last"
    temperature: float = ranged(1.0, above=0.0)


@dataclass
class AdamW:
    """AdamW with warm-up and cosine decay."""

    _target_: str = "codd_lightning.modules.AdamW"
    lr: float = ranged(1e-3, above=0.0)
    betas: tuple[float, float] = (0.9, 0.98)
    weight_decay: float = ranged(0.0, minimum=0.0)
    warmup_steps: int = ranged(30, minimum=0)
    final_fraction: float = ranged(0.02, minimum=0.0, maximum=1.0)


@dataclass
class CyclicAdamW(AdamW):
    """AdamW on a circuit, starting again several times; what depends on a context waits for the first cycles."""

    _target_: str = "codd_lightning.modules.CyclicAdamW"
    cycles: int = ranged(3, minimum=1)
    static_cycles: int = ranged(1, minimum=0)
    alone_cycles: int = ranged(0, minimum=0)
    head_lr: float | None = ranged(None, above=0.0)
    later_lr: float | None = ranged(None, above=0.0)
    split_states: bool = True


@dataclass
class Muon(AdamW):
    """Muon on the matrices of a transformer's layers, AdamW on the rest."""

    _target_: str = "codd_lightning.modules.Muon"
    muon_lr: float = ranged(0.02, above=0.0)
    momentum: float = ranged(0.95, minimum=0.0, maximum=1.0)


@dataclass
class EM:
    """Mini-batch EM of a circuit; trainer.gradient_clip_val does not concern it."""

    _target_: str = "codd_lightning.modules.ExpectationMaximization"
    lr: float = ranged(0.1, above=0.0, maximum=1.0)
    pseudocount: float = ranged(1e-3, minimum=0.0)
    warmup_steps: int = ranged(0, minimum=0)
    final_fraction: float = ranged(0.02, minimum=0.0, maximum=1.0)


@dataclass
class Anemone(EM):
    """EM anchored at the present parameters, with momentum."""

    _target_: str = "codd_lightning.modules.AnemoneEM"
    momentum: float = ranged(0.9, minimum=0.0, maximum=0.9999)


@dataclass
class DDP:
    """Every rank holds everything."""

    _target_: str = "codd_lightning.strategies.DDP"


@dataclass
class FSDP2:
    """Weights, gradients and optimizer spread over the ranks by torch."""

    _target_: str = "codd_lightning.strategies.FSDP2"


@dataclass
class DeepSpeedZero:
    """Optimizer (1), gradients (2) and weights (3) spread over the ranks by DeepSpeed."""

    _target_: str = "codd_lightning.strategies.DeepSpeedZero"
    stage: int = ranged(2, minimum=1, maximum=3)
    offload_optimizer: bool = False
    offload_parameters: bool = False
    bucket_elements: int = ranged(200_000_000, minimum=1)
    persistent_elements: int = ranged(100_000, minimum=0)


@dataclass
class Trainer:
    """What Lightning's Trainer is given; `devices` are those of one node."""

    accelerator: str = "cpu"
    devices: int = ranged(1, minimum=1)
    num_nodes: int = ranged(1, minimum=1)
    strategy: Any = MISSING
    precision: str = "32-true"
    max_epochs: int = ranged(1, minimum=1)
    max_steps: int = ranged(-1, minimum=-1)
    gradient_clip_val: float | None = ranged(1.0, above=0.0)
    check_val_every_n_epoch: int = ranged(1, minimum=1)
    checkpoint_minutes: float | None = ranged(10.0, minimum=0.0)
    checkpoint_every_n_steps: int | None = ranged(None, minimum=1)
    log_every_n_steps: int = ranged(10, minimum=1)
    num_threads: int | None = ranged(None, minimum=1)
    progress_bar: bool = True
