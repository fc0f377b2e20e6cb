"""AdamW in cycles: restarts, what is learnt in each, and what waits."""

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from codd_lightning.errors import UserError
from codd_lightning.modules.optimizers import AdamW, is_log_distribution


class Phase(Enum):
    """What a circuit learns in a cycle of `CyclicAdamW`."""

    STATIC = "its tables, as if there were no context"
    ALONE = "the text by the context, as if the backbone said nothing of its tokens"
    COUPLED = "the text by both"


@dataclass(frozen=True)
class CyclicAdamW(AdamW):
    """AdamW whose schedule starts again several times, with fresh moments.

    A circuit's states are settled early, and many of them left behind; a restart is when they can be put to use.

    Attributes:
        cycles: warm-ups and decays, as equal in length as can be.
        static_cycles: of those, the first ones, in which what depends on a context waits for the tables; where there
            are not both, nothing waits.
        alone_cycles: those that follow, in which the circuit learns the text by the context alone, without what the
            backbone says of each token: that leaves its heads little to learn from (see docs/contextual.md).
        head_lr: peak learning rate of what depends on a context, where there are tables too; None for `lr`.
        later_lr: peak learning rate of the tables once the heads learn; None for `lr`.
        split_states: whether each cycle but the first begins with `codd_lightning.circuits.split_forgetful_states`.

    Raises:
        UserError: nothing would be left of the cycles.
    """

    cycles: int = 3
    static_cycles: int = 1
    alone_cycles: int = 0
    head_lr: float | None = None
    later_lr: float | None = None
    split_states: bool = True

    def __post_init__(self) -> None:
        if self.static_cycles + self.alone_cycles >= self.cycles:
            named = f"optimizer.static_cycles={self.static_cycles}"
            if self.alone_cycles:
                named += f" and optimizer.alone_cycles={self.alone_cycles} together"
            raise UserError(
                f"{named} must be less than optimizer.cycles={self.cycles}, or what depends on a context never learns: "
                "use more cycles, or fewer of these (0 where nothing is to wait)"
            )

    def starts(self, total_steps: int) -> list[int]:
        """The first step of each cycle, and the end; of fewer steps than cycles the last cycles are left out."""
        if total_steps < self.cycles:
            return [min(cycle, total_steps) for cycle in range(self.cycles + 1)]
        return [total_steps * cycle // self.cycles for cycle in range(self.cycles + 1)]

    def cycle_of(self, step: int, total_steps: int) -> tuple[int, int, int]:
        """The cycle of a step, from 0; the step within it; and the length of that cycle."""
        starts = self.starts(total_steps)
        cycle = min(bisect_right(starts, step), self.cycles) - 1
        return cycle, step - starts[cycle], starts[cycle + 1] - starts[cycle]

    def phase_of(self, cycle: int) -> Phase:
        """What a circuit that has tables and reads a context learns in a cycle."""
        if cycle < self.static_cycles:
            return Phase.STATIC
        return Phase.ALONE if cycle < self.static_cycles + self.alone_cycles else Phase.COUPLED

    def optimizer(self, parameters: list[tuple[str, nn.Parameter]]) -> torch.optim.Optimizer:
        tables = [p for name, p in parameters if is_log_distribution(name)]
        heads = [p for name, p in parameters if not is_log_distribution(name)]
        head_lr = self.head_lr if tables and self.head_lr is not None else self.lr
        groups: list[dict[str, Any]] = [
            *([{"params": tables, "lr": self.lr, "factor": "tables"}] if tables else []),
            *([{"params": heads, "lr": head_lr, "factor": "heads" if tables else "all"}] if heads else []),
        ]
        return torch.optim.AdamW(groups, betas=self.betas, weight_decay=self.weight_decay)

    def scheduled(self, optimizer: torch.optim.Optimizer, total_steps: int) -> dict[str, Any]:
        later = 1.0 if self.later_lr is None else self.later_lr / self.lr

        def of_all(step: int) -> float:
            _, within, length = self.cycle_of(step, total_steps)
            return self.factor(within, length)

        def of_tables(step: int) -> float:
            cycle, _, _ = self.cycle_of(step, total_steps)
            return of_all(step) * (1.0 if cycle < self.static_cycles else later)

        def of_heads(step: int) -> float:
            cycle, _, _ = self.cycle_of(step, total_steps)
            return 0.0 if cycle < self.static_cycles else of_all(step)

        factors: dict[str, Callable[[int], float]] = {"tables": of_tables, "heads": of_heads, "all": of_all}
        of_groups = [factors[group.get("factor", "all")] for group in optimizer.param_groups]
        schedule = _Restarts(optimizer, of_groups, self.starts(total_steps)[1:-1])
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class _Restarts(LambdaLR):
    """A schedule at some of whose steps an optimizer's moments start afresh."""

    def __init__(
        self, optimizer: torch.optim.Optimizer, factors: list[Callable[[int], float]], restarts: list[int]
    ) -> None:
        self._restarts = restarts
        super().__init__(optimizer, factors)

    def step(self, epoch: int | None = None) -> None:
        super().step(epoch)
        if self.last_epoch in self._restarts:
            for state in self.optimizer.state.values():
                for value in state.values():
                    value.zero_()  # in place, as DeepSpeed keeps hold of it
