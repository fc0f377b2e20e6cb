"""Optimizers with their learning-rate schedules."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from codd_lightning.circuits import EM, Anemone, Circuit, CountingOptimizer
from codd_lightning.errors import UserError

NamedParameters = Iterable[tuple[str, nn.Parameter]]


@dataclass(frozen=True)
class Schedule:
    """Linear warm-up and cosine decay of a learning rate.

    Attributes:
        lr: its peak.
        warmup_steps: to the peak.
        final_fraction: of the peak, reached at the last step.
    """

    lr: float
    warmup_steps: int = 30
    final_fraction: float = 0.02

    def factor(self, step: int, total_steps: int) -> float:
        """Share of the peak learning rate at a step."""
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        progress = (step - self.warmup_steps) / max(total_steps - self.warmup_steps, 1)
        cosine = 0.5 * (1.0 + math.cos(math.pi * min(progress, 1.0)))
        return self.final_fraction + (1.0 - self.final_fraction) * cosine

    def scheduled(self, optimizer: torch.optim.Optimizer, total_steps: int) -> dict[str, Any]:
        """What `configure_optimizers` returns: the optimizer, and this schedule over `total_steps` updates."""
        schedule = LambdaLR(optimizer, lambda step: self.factor(step, total_steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


@dataclass(frozen=True)
class OptimizerRecipe(Schedule, ABC):
    """An optimizer that follows gradients, with its schedule."""

    def __call__(self, parameters: NamedParameters, total_steps: int) -> dict[str, Any]:
        """What `configure_optimizers` returns."""
        return self.scheduled(self.optimizer(list(parameters)), total_steps)

    @abstractmethod
    def optimizer(self, parameters: list[tuple[str, nn.Parameter]]) -> torch.optim.Optimizer:
        """The optimizer of some named parameters."""


@dataclass(frozen=True)
class CountingRecipe(Schedule, ABC):
    """An optimizer of a circuit that is given expected counts instead of gradients, with its schedule.

    Attributes:
        lr: step size η, at most 1.
        pseudocount: of each distribution, spread evenly over its entries.
    """

    lr: float = 0.1
    pseudocount: float = 1e-3

    def __call__(self, circuit: Circuit, total_steps: int) -> dict[str, Any]:
        """What `configure_optimizers` returns."""
        return self.scheduled(self.optimizer(circuit), total_steps)

    @abstractmethod
    def optimizer(self, circuit: Circuit) -> CountingOptimizer:
        """The optimizer of a circuit."""


@dataclass(frozen=True)
class ExpectationMaximization(CountingRecipe):
    """Mini-batch EM."""

    def optimizer(self, circuit: Circuit) -> CountingOptimizer:
        return EM(circuit, lr=self.lr, pseudocount=self.pseudocount)


@dataclass(frozen=True)
class AnemoneEM(CountingRecipe):
    """Anemone: EM anchored at the present parameters, with momentum.

    Attributes:
        momentum: of the counts.
    """

    momentum: float = 0.9

    def optimizer(self, circuit: Circuit) -> CountingOptimizer:
        return Anemone(circuit, lr=self.lr, momentum=self.momentum, pseudocount=self.pseudocount)


@dataclass(frozen=True)
class AdamW(OptimizerRecipe):
    """AdamW (Loshchilov & Hutter, 2019) on all parameters.

    Attributes:
        betas: of its moment estimates.
        weight_decay: decoupled.
    """

    betas: tuple[float, float] = (0.9, 0.98)
    weight_decay: float = 0.0

    def optimizer(self, parameters: list[tuple[str, nn.Parameter]]) -> torch.optim.Optimizer:
        everything = [parameter for _, parameter in parameters]
        return torch.optim.AdamW(everything, lr=self.lr, betas=self.betas, weight_decay=self.weight_decay)


@dataclass(frozen=True)
class Muon(AdamW):
    """Muon (Jordan et al., 2024) on the matrices of a transformer's layers, AdamW on everything else.

    Small transformers learn to copy from their prompt sooner with it. Without weight decay and at a rate that
    stays high their weights grow and learning stalls.

    Attributes:
        muon_lr: peak learning rate of Muon.
        momentum: of Muon.
    """

    muon_lr: float = 0.02
    momentum: float = 0.95

    def optimizer(self, parameters: list[tuple[str, nn.Parameter]]) -> torch.optim.Optimizer:
        matrices = [p for name, p in parameters if p.ndim == 2 and not _is_table(name)]
        others = [p for name, p in parameters if p.ndim != 2 or _is_table(name)]
        if not matrices:
            raise UserError("optimizer=muon is for the matrices of a transformer's layers; a circuit has none: adamw")
        return _Paired(
            torch.optim.Muon(matrices, lr=self.muon_lr, momentum=self.momentum, weight_decay=self.weight_decay),
            torch.optim.AdamW(others, lr=self.lr, betas=self.betas, weight_decay=self.weight_decay),
        )


class _Paired(torch.optim.Optimizer):
    """Two optimizers on two sets of parameters, stepped and saved as one."""

    def __init__(self, first: torch.optim.Optimizer, second: torch.optim.Optimizer) -> None:
        self._parts = (first, second)
        # the parts keep these very groups, so that a schedule reaches them
        super().__init__([group for part in self._parts for group in part.param_groups], {})

    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:  # type: ignore[override]  # as torch documents it
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part in self._parts:
            part.step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        return {"parts": [part.state_dict() for part in self._parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for part, state in zip(self._parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
        self.param_groups = [part.param_groups[0] for part in self._parts]


def is_log_distribution(name: str) -> bool:
    """Whether a parameter of a circuit is one of its tables."""
    return name.endswith("_logits")


def _is_table(name: str) -> bool:
    """Whether a matrix is an embedding or head, whose rows belong to tokens."""
    return "embed" in name or "lm_head" in name
