"""Accuracy and parallelism in one number: the area under their curve."""

import math
from collections.abc import Sequence
from typing import Any

import torch

from codd_lightning.evaluation.intervals import RESAMPLES
from codd_lightning.evaluation.rows import Row, row
from codd_lightning.evaluation.samples import Sample

PENALTY = 3.0
MOST_LOST = 5.0
ROUNDING = 1e-9
BUDGETS = ("steps_per_block", "commit_bound")  # what a curve of one decoder runs along


def area_under_parallelism(points: Sequence[tuple[float, float]], best: float | None = None) -> float:
    """AUP, "accuracy under parallelism", as the d3LLM leaderboard counts it (Qian et al., arXiv 2601.07568).

    With points (ρ_i, y_i) in the order of ρ, those with `y_i < y_1 − 5` left out,

        AUP = ρ_1 y_1 + Σ_{i>1} (ρ_i − ρ_{i−1}) · (y_i W(y_i) + y_{i−1} W(y_{i−1})) / 2,
        W(y) = min(exp(−3 (1 − y / y_max)), 1).

    So an accuracy of 80 at ρ = 1 alone gives 80; the same accuracy held up to ρ = 4, if none is better, 320.

    Args:
        points: (ρ, y) pairs: tokens per forward pass, and accuracy in percent; the best counts of those at one ρ.
        best: y_max, the highest accuracy that any method reaches on the task; None for the highest of the points.

    Returns:
        The area, in percent × tokens per pass.

    Raises:
        ValueError: there are no points, or a ρ is not positive.
    """
    if not points or min(parallelism for parallelism, _ in points) <= 0:
        raise ValueError("an area needs points, each at more than 0 tokens per pass")
    at: dict[float, float] = {}
    for parallelism, accuracy in points:
        at[parallelism] = max(accuracy, at.get(parallelism, accuracy))
    ordered = sorted(at.items())
    least = ordered[0][1] - MOST_LOST - ROUNDING
    kept = [(parallelism, accuracy) for parallelism, accuracy in ordered if accuracy >= least]
    top = max(accuracy for _, accuracy in points) if best is None else best
    weighted = [
        accuracy * math.exp(-PENALTY * max(0.0, 1 - accuracy / top)) if accuracy else 0.0 for _, accuracy in kept
    ]
    area = kept[0][0] * kept[0][1]
    for i in range(1, len(kept)):
        area += (kept[i][0] - kept[i - 1][0]) * (weighted[i] + weighted[i - 1]) / 2
    return area


def aup_rows(samples: Sequence[Sequence[Sample]], split: str) -> list[Row]:
    """One `aup` row for each decoder, over its step budgets or the bounds of its commit rule.

    Assumes that all decoders answered the same problems. `y_max` is the highest strict accuracy among them, for want of
    a leaderboard: values of different runs compare only where it is the same. The 95 % interval is the percentile
    bootstrap over problems, drawn whole and alike for all decoders and budgets, with `y_max` found anew each time; near
    the five points that may be lost an area jumps, and there the interval is rough.

    Args:
        samples: of each setting.
        split: which the problems come from.
    """
    if not samples:
        return []
    right, tokens, passes = (
        torch.tensor([[value(sample) for sample in of_setting] for of_setting in samples], dtype=torch.float64)
        for value in (lambda s: float(s.grade.strict), lambda s: float(s.tokens), lambda s: float(s.nfe))
    )  # (settings, problems) each
    n = right.shape[1]
    draws = torch.randint(n, (RESAMPLES, n), generator=torch.Generator().manual_seed(0))
    times = torch.stack([torch.bincount(draw, minlength=n) for draw in draws]).double()  # each problem is drawn
    times = torch.cat([torch.ones(1, n, dtype=torch.float64), times])  # first as it was measured
    accuracies = (100 * times @ right.T / n).tolist()
    parallelism = ((times @ tokens.T) / (times @ passes.T)).tolist()
    decoders: dict[tuple[tuple[str, Any], ...], list[int]] = {}
    for setting, of_setting in enumerate(samples):
        labels = tuple((name, value) for name, value in of_setting[0].labels.items() if name not in BUDGETS)
        decoders.setdefault(labels, []).append(setting)
    found = []
    for decoder, settings in decoders.items():
        areas = [
            area_under_parallelism([(p[i], a[i]) for i in settings], best=max(a))
            for p, a in zip(parallelism, accuracies, strict=True)
        ]
        low, high = torch.quantile(torch.tensor(areas[1:]).double(), torch.tensor([0.025, 0.975]).double()).tolist()
        by_rule = "commit" in dict(decoder)
        budgets = [samples[i][0].labels["commit_bound" if by_rule else "steps_per_block"] for i in settings]
        described = {**dict(decoder), "y_max": max(accuracies[0]), "budgets": budgets}
        found.append(row("aup", areas[0], low, high, n, "%·tokens/pass", split, **described))
    return found
