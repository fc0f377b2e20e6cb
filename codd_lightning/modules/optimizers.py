"""Optimizers with their learning-rate schedules."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True)
class AdamW:
    """AdamW with linear warm-up and cosine decay.

    Attributes:
        lr: peak learning rate.
        betas: of the moment estimates.
        weight_decay: decoupled.
        warmup_steps: to the peak.
        final_fraction: of the peak, reached at the last step.
    """

    lr: float
    betas: tuple[float, float] = (0.9, 0.98)
    weight_decay: float = 0.0
    warmup_steps: int = 30
    final_fraction: float = 0.02

    def __call__(
        self, parameters: Iterable[nn.Parameter], total_steps: int
    ) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LambdaLR]:
        """The optimizer and a schedule to step after each of `total_steps` updates."""
        optimizer = torch.optim.AdamW(parameters, lr=self.lr, betas=self.betas, weight_decay=self.weight_decay)

        def factor(step: int) -> float:
            if step < self.warmup_steps:
                return (step + 1) / self.warmup_steps
            progress = (step - self.warmup_steps) / max(total_steps - self.warmup_steps, 1)
            cosine = 0.5 * (1.0 + math.cos(math.pi * min(progress, 1.0)))
            return self.final_fraction + (1.0 - self.final_fraction) * cosine

        return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
