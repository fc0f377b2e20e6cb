"""Optimizers with their learning-rate schedules."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from codd_lightning.errors import UserError

NamedParameters = Iterable[tuple[str, nn.Parameter]]


@dataclass(frozen=True)
class OptimizerRecipe(ABC):
    """An optimizer, and linear warm-up with cosine decay of its learning rates.

    Attributes:
        lr: peak learning rate of AdamW.
        betas: of its moment estimates.
        weight_decay: decoupled.
        warmup_steps: to the peak.
        final_fraction: of the peak, reached at the last step.
    """

    lr: float
    betas: tuple[float, float] = (0.9, 0.98)
    weight_decay: float = 0.0
    warmup_steps: int = 30
    final_fraction: float = 0.02

    def __call__(self, parameters: NamedParameters, total_steps: int) -> dict[str, Any]:
        """What `configure_optimizers` returns: the optimizer, and a schedule over `total_steps` updates."""
        optimizer = self.optimizer(list(parameters))
        schedule = LambdaLR(optimizer, lambda step: self.factor(step, total_steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def factor(self, step: int, total_steps: int) -> float:
        """Share of the peak learning rate at a step."""
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        progress = (step - self.warmup_steps) / max(total_steps - self.warmup_steps, 1)
        cosine = 0.5 * (1.0 + math.cos(math.pi * min(progress, 1.0)))
        return self.final_fraction + (1.0 - self.final_fraction) * cosine

    @abstractmethod
    def optimizer(self, parameters: list[tuple[str, nn.Parameter]]) -> torch.optim.Optimizer:
        """The optimizer of some named parameters."""


@dataclass(frozen=True)
class AdamW(OptimizerRecipe):
    """AdamW (Loshchilov & Hutter, 2019) on all parameters."""

    def optimizer(self, parameters: list[tuple[str, nn.Parameter]]) -> torch.optim.Optimizer:
        everything = [parameter for _, parameter in parameters]
        return torch.optim.AdamW(everything, lr=self.lr, betas=self.betas, weight_decay=self.weight_decay)


@dataclass(frozen=True)
class Muon(OptimizerRecipe):
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


def _is_table(name: str) -> bool:
    """Whether a matrix is an embedding or head, whose rows belong to tokens."""
    return "embed" in name or "lm_head" in name
