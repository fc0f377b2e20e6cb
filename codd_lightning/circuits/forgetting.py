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
        gain: nats of the traced text, as what the state says or what comes after it shows them, less what chance gives.
        state: that forgets.
        lookback: positions back to the tokens; 0 for the state's own.
        groups: `(W,)` bool each, the columns of the two, those of the more frequent one first.
    """

    gain: float
    state: int
    lookback: int
    groups: tuple[Tensor, Tensor]


def find_splits(traces: Traces, states: Tensor, state: int, most_back: int) -> list[Split]:
    """The best divisions of what came before a state, by what comes after it, or by what it says itself.

    What comes after is the next token, and the next state: two states may say the same token and differ in what they
    lead to.

    Args:
        traces: of a text.
        states: `(B, L)` long, as the traces have them, or relabelled.
        state: of these labels.
        most_back: positions back to the tokens that are divided, at most; from 0, the state's own.

    Returns:
        One for each number of positions, but where there is nothing to divide, or no more to gain than by chance.
    """
    rows, at = (states[:, :-1] == state).nonzero(as_tuple=True)
    outcomes = []
    for labels, expected, ahead in (
        (traces.columns, traces.expected, 1),
        (traces.states, traces.expected_states, 1),
        (traces.columns, traces.said, 0),
    ):
        afters, after = labels[rows, at + ahead].unique(return_inverse=True)
        outcomes.append((after, expected[rows, at + ahead][:, afters].float()))
    splits = []
    for lookback in range(most_back + 1):
        there = at >= lookback
        befores, before = traces.columns[rows[there], at[there] - lookback].unique(return_inverse=True)
        size = len(befores)
        told = outcomes if lookback else outcomes[:2]  # its own token tells nothing of itself
        divisions = [_divide(size, before, after[there], expected[there]) for after, expected in told]
        gain, smaller, larger = max(divisions, key=lambda division: division[0])
        if gain > 0.0:
            columns = torch.zeros(traces.expected.shape[-1], dtype=torch.bool)
            groups = [columns.index_fill(0, befores[group], True) for group in (larger, smaller)]
            splits.append(Split(gain, state, lookback, (groups[0], groups[1])))
    return splits


def _divide(size: int, before: Tensor, after: Tensor, expectations: Tensor) -> tuple[float, Tensor, Tensor]:
    """Divides what came before in two groups, whose counts of what came after differ most from what is expected.

    Counts are set against those that the circuit expects, which are scaled to the observed sums over either: what is
    left over, a state forgets. The groups are sought along the first singular vector of the residuals (after Chou,
    1991).

    Args:
        size: B, how many labels before there are; all of them occur.
        before: `(M,)` long, these labels.
        after: `(M,)` long, labels below A.
        expectations: `(M, A)` probabilities of the latter.

    Returns:
        The gain in nats, less what chance gives, 0 where there is nothing to divide; and the labels of the group of
        fewer counts, and those of the other.
    """
    observed = torch.zeros(size, expectations.shape[1])
    observed.index_put_((before, after), torch.ones(len(before)), accumulate=True)
    expected = torch.zeros_like(observed).index_add_(0, before, expectations)
    seen = observed.any(0)
    observed, expected = observed[:, seen], expected[:, seen].clamp_min(LEAST)
    if min(observed.shape) < 2:
        return 0.0, before[:0], before[:0]
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


def chance(groupable: int, outcomes: int) -> float:
    """Nats that the best division in two of B labels gains by chance, where A outcomes are independent of them.

    Half the square of a bound on the expected norm of a matrix of (B - 1) × (A - 1) standard normal residuals that is
    multiplied by signs of the B and any direction of the A (Chevet's inequality; signs keep √(2 / π) of a direction).
    """
    return ((outcomes - 1) ** 0.5 + (2 * (groupable - 1) / math.pi) ** 0.5) ** 2 / 2


def likelihood_gain(observed: Tensor, expected: Tensor) -> Tensor:
    """`Σ o log(o / e)` over the last dimension, nats."""
    return torch.xlogy(observed, observed / expected.clamp_min(LEAST)).sum(-1)
