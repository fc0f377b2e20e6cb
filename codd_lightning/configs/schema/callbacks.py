"""What is shown while a run is under way."""

from dataclasses import dataclass, field

from codd_lightning.configs.schema.evaluation import Decoder
from codd_lightning.configs.schema.fields import ranged


@dataclass
class Switched:
    """A callback that can be switched off where others are on."""

    enabled: bool = True


@dataclass
class AtEpochEnd(Switched):
    """A callback that acts at the end of epochs, and the share of the training time that it may take."""

    every_n_epochs: int = ranged(1, minimum=1)
    most_share: float = ranged(0.05, above=0.0, maximum=1.0)


@dataclass
class AsksBackbone(AtEpochEnd):
    """A callback that asks the backbone about held-out examples, so that it must be in memory."""

    examples: int = ranged(64, minimum=1)


@dataclass
class FewStepReasoning(AsksBackbone):
    """Few-step decoding of held-out problems: accuracies, and texts side by side."""

    _target_: str = "codd_lightning.callbacks.few_step_reasoning.FewStepReasoning"
    steps_per_block: list[int] = field(default_factory=lambda: [1, 4])
    decoders: list[Decoder] = field(default_factory=list)
    samples: int = ranged(4, minimum=0)
    most_share: float = ranged(0.3, above=0.0, maximum=1.0)


@dataclass
class Charts(Switched):
    """Charts that show several tags together."""

    _target_: str = "codd_lightning.callbacks.charts.Charts"


@dataclass
class GapCurve(AsksBackbone):
    """Factorized, coupled and sequential likelihood of held-out examples by mask ratio."""

    _target_: str = "codd_lightning.callbacks.gap_curve.GapCurve"
    examples: int = ranged(32, minimum=1)
    canvas: str = "uniform"
    most_share: float = ranged(0.1, above=0.0, maximum=1.0)  # the sequential part comes in one epoch


@dataclass
class DenoisingTraces(AsksBackbone):
    """Step by step, how a few held-out problems are decoded."""

    _target_: str = "codd_lightning.callbacks.denoising_traces.DenoisingTraces"
    examples: int = ranged(2, minimum=1)
    steps_per_block: list[int] = field(default_factory=lambda: [4])
    decoders: list[Decoder] = field(default_factory=list)


@dataclass
class CircuitHealth(AtEpochEnd):
    """Which states of the circuit held-out text uses."""

    _target_: str = "codd_lightning.callbacks.circuit_health.CircuitHealth"
    examples: int = ranged(64, minimum=1)


@dataclass
class Throughput(Switched):
    """Examples and tokens per second, and where the time goes."""

    _target_: str = "codd_lightning.callbacks.throughput.Throughput"


@dataclass
class HParams(Switched):
    """What the command line set, beside the final metrics."""

    _target_: str = "codd_lightning.callbacks.hparams.HParams"
    metrics: list[str] = field(default_factory=lambda: ["strict_accuracy", "cll_gain"])
