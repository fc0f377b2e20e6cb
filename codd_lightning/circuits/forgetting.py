"""What a chain forgets: tokens that matter for what comes after a state, and that the state does not tell apart."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from codd_lightning.circuits.traces import Traces

LEAST = 1e-6  # of what is divided by


@dataclass(frozen=True, eq=False)
class Split:
    """A state that should remember which of two groups of tokens came some positions before.

    Attributes:
        gain: nats of the traced text, less what chance gives.
        state: that forgets.
        lookback: positions back to the tokens; 0 for the state's own.
        groups: `(W,)` bool each, the columns of the two, those of the more frequent one first.
    """

    gain: float
    state: int
    lookback: int
    groups: tuple[Tensor, Tensor]


def find_split(traces: Traces, states: Tensor, state: int, lookback: int) -> Split | None:
    """The best division of what came `lookback` positions before a state, by what comes after it.

    That is the next token, and the next state: two states may say the same token and differ in what they lead to. None
    where there is nothing to divide.

    Args:
        traces: of a text.
        states: `(B, L)` long, as the traces have them, or relabelled.
        state: of these labels.
        lookback: positions back to the tokens that are divided; 0 for the state's own.
    """
    here = states[:, lookback:-1] == state
    befores, row = traces.columns[:, : here.shape[1]][here].unique(return_inverse=True)
    best = None
    for labels, expected in ((traces.columns, traces.expected), (traces.states, traces.expected_states)):
        afters, column = labels[:, lookback + 1 :][here].unique(return_inverse=True)
        if len(befores) < 2 or len(afters) < 2:
            continue
        observed = torch.zeros(len(befores), len(afters))
        observed.index_put_((row, column), torch.ones(len(row)), accumulate=True)
        hoped = expected[:, lookback + 1 :][here][:, afters].float()
        hoped = torch.zeros_like(observed).index_add_(0, row, hoped).clamp_min(LEAST)
        gain, smaller, larger = _divide(observed, hoped)
        if best is None or gain > best.gain:
            columns = torch.zeros(traces.expected.shape[-1], dtype=torch.bool)
            groups = tuple(columns.index_fill(0, befores[group], True) for group in (larger, smaller))
            best = Split(gain, state, lookback, (groups[0], groups[1]))
    return best


def _divide(observed: Tensor, expected: Tensor) -> tuple[float, Tensor, Tensor]:
    """Divides the rows of a table of counts in two groups that differ most from what is expected of them.

    Counts `(B, A)` are set against those that the circuit expects, which are scaled to the observed sums over either:
    what is left over, a state forgets. The groups are sought along the first singular vector of the residuals (after
    Chou, 1991).

    Returns:
        The gain in nats, less what chance gives; the rows of the group of fewer counts, and those of the other.
    """
    for _ in range(3):  # iterative proportional fitting
        expected = expected * (observed.sum(0) / expected.sum(0))
        expected = expected * (observed.sum(1) / expected.sum(1))[:, None]
    weight = observed.sum(1)
    residual = (observed - expected) / expected.sqrt()
    order = (torch.linalg.svd(residual, full_matrices=False).U[:, 0] / weight.sqrt()).argsort()
    found, hoped = observed[order].cumsum(0), expected[order].cumsum(0)
    gains = likelihood_gain(found[:-1], hoped[:-1]) + likelihood_gain(found[-1] - found[:-1], hoped[-1] - hoped[:-1])
    cut = int(gains.argmax())
    smaller, larger = sorted((order[: cut + 1], order[cut + 1 :]), key=lambda group: float(weight[group].sum()))
    return float(gains[cut]) - chance(*observed.shape), smaller, larger


def chance(rows: int, columns: int) -> float:
    """Nats that dividing a table of independent counts gains.

    Half the square of the largest singular value of B × A standard normal residuals, (√B + √A)² (Marchenko and
    Pastur, 1967), of which signs along its vector keep a share of 2 / π.
    """
    return (rows**0.5 + columns**0.5) ** 2 / math.pi


def likelihood_gain(observed: Tensor, expected: Tensor) -> Tensor:
    """`Σ o log(o / e)` over the last dimension, nats."""
    return torch.xlogy(observed, observed / expected.clamp_min(LEAST)).sum(-1)
