"""Expectation maximisation: parameters move towards normalised expected counts (flows)."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from codd_lightning.circuits.circuit import Circuit
from codd_lightning.circuits.errors import CircuitError
from codd_lightning.circuits.evidence import Evidence
from codd_lightning.circuits.scaling import safe

Counts = Mapping[str, Tensor]

LEAST_LOG = -60.0  # of an entry that is possible


class CountingOptimizer(torch.optim.Optimizer, ABC):
    """An optimizer that is given expected counts instead of gradients.

    Two uses. With counts under known tokens alone it maximises the likelihood `log p_ω(x)`. With counts
    under the evidence beside them it maximises the conditional likelihood `log p_ω(x) − log Z`, whose
    derivative in the log of an entry is the difference of the two.

    Counts add up until `step`. Over several ranks they must be summed first (`all_reduce`), and so
    must the samples: then the ranks take the step that one rank takes with all their samples.

    Args:
        circuit: whose tables are learnt; its parameters hold their logs after a step.
        lr: step size η in (0, 1]; an entry of `param_groups`, so that schedules reach it.
        pseudocount: added to the counts of each distribution, evenly over its entries.

    Raises:
        CircuitError: an argument is out of range, or the circuit has no tables.
    """

    def __init__(self, circuit: Circuit, lr: float, pseudocount: float) -> None:
        if not 0.0 < lr <= 1.0:
            raise CircuitError(f"lr={lr} must lie in (0, 1]: it is the share of the way to the new parameters")
        if pseudocount < 0.0:
            raise CircuitError(f"pseudocount={pseudocount} must not be negative")
        if not circuit.core.tables:
            raise CircuitError(f"circuit={circuit.structure} has no tables to count in: train it by gradients (adamw)")
        super().__init__(list(circuit.parameters()), {"lr": lr, "pseudocount": pseudocount})
        self._circuit = circuit

    @torch.no_grad()
    def accumulate(self, counts: Counts, samples: float, against: Counts | None = None) -> None:
        """Adds expected counts to those that the next step will use.

        Args:
            counts: under the known tokens, from `Circuit.expected_counts`.
            samples: how many blocks they come from, or the sum of their weights.
            against: under the evidence alone, for the conditional likelihood.
        """
        for name, count in counts.items():
            state = self.state[self._parameter(name)]
            state["samples"] = state.get("samples", 0.0) + samples
            for key, value in (("counts", count), ("against", None if against is None else against[name])):
                if value is not None:
                    state[key] = state[key] + value if key in state else value.clone()

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Moves every table by the counts so far, and forgets them."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        group = self.param_groups[0]
        prior = self._prior_counts()
        for name, dim in self._circuit.core.tables.items():
            parameter = self._parameter(name)
            state = self.state[parameter]
            if not state.get("samples"):
                continue
            log_table = parameter.log_softmax(dim)
            smoothing = group["pseudocount"] / parameter.shape[dim]
            updated = self._updated(log_table, dim, state, prior.get(name), group["lr"], smoothing)
            possible = updated.amax(dim, keepdim=True) > -torch.inf  # a distribution without a possible entry stays
            moved = torch.where(possible, updated, log_table).log_softmax(dim)
            # what was possible stays so: large steps on a conditional likelihood would rule out what comes next
            parameter.copy_(moved.clamp_min(LEAST_LOG).masked_fill(log_table == -torch.inf, -torch.inf))
            for key in ("counts", "against", "samples"):
                state.pop(key, None)
        return loss

    def _parameter(self, table: str) -> nn.Parameter:
        return self._circuit.core.get_parameter(f"{table}_logits")

    def _prior_counts(self) -> Counts:
        return {}

    @abstractmethod
    def _updated(
        self, log_table: Tensor, dim: int, state: dict[str, Any], prior: Tensor | None, lr: float, smoothing: float
    ) -> Tensor:
        """Logs of the new table, up to a constant of each distribution."""


class EM(CountingOptimizer):
    """Mini-batch EM: `θ ← (1 − η) θ + η (F + pc/K) / (ΣF + pc)`.

    With all the data in each step and η = 1 the likelihood never falls (Dempster et al., 1977). For the
    conditional likelihood the update is `θ ∝ θ ((F⁺ + pc/K) / (F⁻ + pc/K))^η`, whose fixed points are
    those of the conditional likelihood; that it rises is seen, not proved.

    Args:
        circuit: whose tables are learnt.
        lr: η.
        pseudocount: pc.
    """

    def __init__(self, circuit: Circuit, lr: float = 0.1, pseudocount: float = 1e-3) -> None:
        super().__init__(circuit, lr, pseudocount)

    def _updated(
        self, log_table: Tensor, dim: int, state: dict[str, Any], prior: Tensor | None, lr: float, smoothing: float
    ) -> Tensor:
        counts = state["counts"] + smoothing
        if "against" in state:
            return log_table + lr * _log_ratio(counts, state["against"] + smoothing)
        total = counts.sum(dim, keepdim=True)
        target = torch.where(total > 0, counts / safe(total), log_table.exp())
        return ((1.0 - lr) * log_table.exp() + lr * target).log()


class Anemone(CountingOptimizer):
    """Mini-batch EM anchored at the present parameters by their own expected counts, with momentum.

    With `f` the (bias-corrected) running mean of the counts of one step and T its samples,
    `F' = (η / T) f + (1 − η) F₀`, where `F₀` are the counts that the circuit expects of a block that nothing
    is known of, and `θ = (F' + pc/K) / (ΣF' + pc)` (Liu et al., 2025, arXiv 2505.19982): a state that few
    samples reach moves little. For the conditional likelihood both kinds of counts are anchored so,
    and `θ ∝ θ (F'⁺ + pc/K) / (F'⁻ + pc/K)`; that it rises is seen, not proved.

    Args:
        circuit: whose tables are learnt.
        lr: η.
        momentum: m, share of the old running mean that is kept at each step.
        pseudocount: pc.
    """

    def __init__(self, circuit: Circuit, lr: float = 0.1, momentum: float = 0.9, pseudocount: float = 1e-6) -> None:
        if not 0.0 <= momentum < 1.0:
            raise CircuitError(f"momentum={momentum} must lie in [0, 1)")
        super().__init__(circuit, lr, pseudocount)
        self._momentum = momentum

    def _prior_counts(self) -> Counts:
        circuit, one = self._circuit, next(self._circuit.parameters())
        dtype = torch.promote_types(one.dtype, torch.float32)
        nothing = Evidence.nothing_known(1, circuit.block_length, circuit.vocab_size, dtype=dtype, device=one.device)
        return circuit.expected_counts(nothing)

    def _updated(
        self, log_table: Tensor, dim: int, state: dict[str, Any], prior: Tensor | None, lr: float, smoothing: float
    ) -> Tensor:
        assert prior is not None, "every table has prior counts"
        state["steps"] = state.get("steps", 0) + 1
        correction = 1.0 - self._momentum ** state["steps"]

        def anchored(kind: str) -> Tensor:
            buffer = state.get(f"mean_{kind}", torch.zeros_like(prior))
            buffer = self._momentum * buffer + (1.0 - self._momentum) * state[kind]
            state[f"mean_{kind}"] = buffer
            return (lr / state["samples"]) * buffer / correction + (1.0 - lr) * prior + smoothing

        if "against" in state:
            return log_table + _log_ratio(anchored("counts"), anchored("against"))
        return anchored("counts").log()


def _log_ratio(above: Tensor, below: Tensor) -> Tensor:
    """`log(above / below)`, 0 where both are 0."""
    return torch.where((above == 0) & (below == 0), 0.0, above.log() - below.log())
