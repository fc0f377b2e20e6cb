"""How fast a stretch of training went and where its time went, as rows."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from codd_lightning.evaluation.rows import Row, row


@dataclass
class Spent:
    """What was done in a stretch of training, and the seconds that it took.

    Attributes:
        examples, tokens: trained on, over all processes.
        training: from the start of an epoch to the end of its last batch, loading included.
        total: of the whole stretch.
        steps: in training and validation steps, callbacks not counted.
        backbone: of the steps, in the frozen backbone.
        callbacks: by callback.
    """

    examples: int = 0
    tokens: int = 0
    training: float = 0.0
    total: float = 0.0
    steps: float = 0.0
    backbone: float = 0.0
    callbacks: dict[str, float] = field(default_factory=dict)


def throughput_rows(spent: Spent, trains_backbone: bool) -> list[Row]:
    """Examples and tokens per second, and the shares of backbone, circuit and callbacks in the time.

    What is left to 1 is loading and the trainer's own work. Where the backbone itself is trained, a step is all its.
    """
    backbone = spent.steps if trains_backbone else spent.backbone
    shares: Mapping[str, float] = {
        "backbone": backbone,
        "circuit": spent.steps - backbone,
        "callbacks": sum(spent.callbacks.values()),
    }
    rates = {"examples": spent.examples, "tokens": spent.tokens}
    n = spent.examples
    return [
        *(_row(f"{name}_per_second", count / spent.training, n, f"{name}/s") for name, count in rates.items()),
        *(_row(f"{name}_share", seconds / spent.total, n, "fraction") for name, seconds in shares.items()),
        *(_row(f"seconds/{name}", seconds, n, "s") for name, seconds in spent.callbacks.items()),
    ]


def _row(name: str, value: float, n: int, unit: str) -> Row:
    return row(name, value, value, value, n, unit, "train")
