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
    if not len(at):
        return []
    back = torch.arange(most_back + 1)[:, None]
    there = at >= back  # (D, M): whether so much lies before
    columns, before = traces.columns[rows, (at - back).clamp_min(0)].unique(return_inverse=True)
    outcomes = (
        (traces.columns, traces.expected, 1),
        (traces.states, traces.expected_states, 1),
        (traces.columns, traces.said, 0),
    )
    gains, groups = [], []
    for labels, expected, ahead in outcomes:
        afters, after = labels[rows, at + ahead].unique(return_inverse=True)
        expectations = expected[rows, at + ahead][:, afters].float()
        gain, both = _divide(before, len(columns), after, expectations, there)
        if not ahead:
            gain[0] = 0.0  # its own token tells nothing of itself
        gains.append(gain)
        groups.append(both)
    best, which = torch.stack(gains).max(0)
    splits = []
    for lookback in (best > 0.0).nonzero().flatten().tolist():
        larger, smaller = (
            torch.zeros(traces.expected.shape[-1], dtype=torch.bool).index_fill(0, columns[group], True)
            for group in groups[which[lookback]][:, lookback]
        )
        splits.append(Split(float(best[lookback]), state, lookback, (larger, smaller)))
    return splits


def _divide(before: Tensor, size: int, after: Tensor, expectations: Tensor, there: Tensor) -> tuple[Tensor, Tensor]:
    """Divides what came before in two groups, whose counts of what came after differ most from what is expected.

    Counts are set against those that the circuit expects, which are scaled to the observed sums over either: what is
    left over, a state forgets. The groups are sought along the first singular vector of the residuals (after Chou,
    1991).

    Args:
        before: `(D, M)` long, labels below B, for each of D tables.
        size: B.
        after: `(M,)` long, labels below A.
        expectations: `(M, A)` probabilities of the latter.
        there: `(D, M)` bool: what counts.

    Returns:
        `(D,)`, for each table the gain in nats, less what chance gives, 0 where there is nothing to divide; and
        `(2, D, B)` bool, the labels of the group of more counts, and those of the other.
    """
    tables, outcomes = len(before), expectations.shape[1]
    if size < 2:
        return torch.zeros(tables), torch.zeros(2, tables, size, dtype=torch.bool)
    number, place = there.nonzero(as_tuple=True)
    label = number * size + before[number, place]
    observed = torch.bincount(label * outcomes + after[place], minlength=tables * size * outcomes).float()
    observed = observed.view(tables, size, outcomes)
    expected = torch.zeros(tables * size, outcomes).index_add_(0, label, expectations[place]).view_as(observed)
    weight, met = observed.sum(2), observed.sum(1)
    occurring, following = (weight > 0).sum(1), (met > 0).sum(1)
    expected = expected.clamp_min(LEAST) * ((weight > 0)[:, :, None] & (met > 0)[:, None])
    for _ in range(3):  # iterative proportional fitting
        expected = expected * (met / expected.sum(1).clamp_min(LEAST))[:, None]
        expected = expected * (weight / expected.sum(2).clamp_min(LEAST))[:, :, None]
    residual = (observed - expected) / expected.sqrt().clamp_min(LEAST)
    score = (residual @ first_direction(residual.mT @ residual)[..., None]).squeeze(-1) / weight.sqrt()
    order = score.masked_fill(weight == 0, torch.inf).argsort(1)  # those that do not occur come last
    found, hoped = (counts.gather(1, order[..., None].expand_as(counts)).cumsum(1) for counts in (observed, expected))
    gains = likelihood_gain(found[:, :-1], hoped[:, :-1])
    gains += likelihood_gain(found[:, -1:] - found[:, :-1], hoped[:, -1:] - hoped[:, :-1])
    gains.masked_fill_(torch.arange(size - 1) >= (occurring - 1)[:, None], -torch.inf)  # something on either side
    gain, cut = gains.max(1)
    gain = torch.where((occurring > 1) & (following > 1), gain - chance(occurring, following), 0.0)
    one = torch.zeros_like(weight, dtype=torch.bool).scatter(1, order, torch.arange(size) <= cut[:, None])
    other = (weight > 0) & ~one
    more = ((weight * one).sum(1) > (weight * other).sum(1))[:, None]
    return gain, torch.stack([torch.where(more, one, other), torch.where(more, other, one)])


def first_direction(gram: Tensor) -> Tensor:
    """The direction of the largest eigenvalue of each of `(..., A, A)` symmetric matrices without negative ones.

    By squaring, to the 1,024th power, which always ends: `eigh` in float32 gave up on tables of a real text.

    Returns:
        `(..., A)`, of any length and sign; where the two largest are within a per mille, something between their two.
    """
    for _ in range(10):
        size = gram.diagonal(dim1=-2, dim2=-1).sum(-1)
        gram = gram / size.clamp_min(torch.finfo(gram.dtype).tiny)[..., None, None]
        gram = gram @ gram
    clearest = gram.diagonal(dim1=-2, dim2=-1).argmax(-1)
    return gram.gather(-1, clearest[..., None, None].expand(*gram.shape[:-1], 1)).squeeze(-1)


def chance(groupable: Tensor, outcomes: Tensor) -> Tensor:
    """Nats that the best division in two of B labels gains by chance, where A outcomes are independent of them.

    Half the square of a bound on the expected norm of a matrix of (B - 1) × (A - 1) standard normal residuals that is
    multiplied by signs of the B and any direction of the A (Chevet's inequality; signs keep √(2 / π) of a direction).
    """
    return ((outcomes - 1).sqrt() + (2 * (groupable - 1) / math.pi).sqrt()) ** 2 / 2


def likelihood_gain(observed: Tensor, expected: Tensor) -> Tensor:
    """`Σ o log(o / e)` over the last dimension, nats."""
    return torch.xlogy(observed, observed / expected.clamp_min(LEAST)).sum(-1)
