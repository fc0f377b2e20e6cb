"""Accuracy and parallelism in one number: the area under their curve."""

import math
from collections.abc import Sequence

import torch

from codd_lightning.evaluation.few_step import Sample
from codd_lightning.evaluation.intervals import RESAMPLES
from codd_lightning.evaluation.rows import Row, row

PENALTY = 3.0
MOST_LOST = 5.0
ROUNDING = 1e-9


def area_under_parallelism(points: Sequence[tuple[float, float]], best: float | None = None) -> float:
    """AUP, "accuracy under parallelism", as the d3LLM leaderboard counts it (Qian et al., arXiv 2601.07568).

    With points (ρ_i, y_i) in the order of ρ, those with `y_i < y_1 − 5` left out,

        AUP = ρ_1 y_1 + Σ_{i>1} (ρ_i − ρ_{i−1}) · (y_i W(y_i) + y_{i−1} W(y_{i−1})) / 2,
        W(y) = min(exp(−3 (1 − y / y_max)), 1).

    So an accuracy of 80 at ρ = 1 alone gives 80; the same accuracy held up to ρ = 4, if none is better, 320.

    Args:
        points: (ρ, y) pairs: tokens per forward pass, and accuracy in percent.
        best: y_max, the highest accuracy that any method reaches on the task; None for the highest of the points.

    Returns:
        The area, in percent × tokens per pass.

    Raises:
        ValueError: there are no points, or a ρ is not positive.
    """
    if not points or min(parallelism for parallelism, _ in points) <= 0:
        raise ValueError("an area needs points, each at more than 0 tokens per pass")
    ordered = sorted(points)
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


def aup_rows(rows: Sequence[Row], samples: Sequence[Sequence[Sample]]) -> list[Row]:
    """One `aup` row for each decoder of a few-step evaluation, over its step budgets.

    Assumes that all decoders answered the same problems. `y_max` is the highest strict accuracy among them, for want of
    a leaderboard: values of different runs compare only where it is the same. The 95 % interval is the percentile
    bootstrap over problems, drawn whole and alike for all decoders and budgets, with `y_max` found anew each time; near
    the five points that may be lost an area jumps, and there the interval is rough.

    Args:
        rows: of an evaluation; its strict accuracies count.
        samples: what they come from, a list for each, in the same order.

    Raises:
        ValueError: there are not as many lists of samples as rows of strict accuracy.
    """
    measured = [accuracy for accuracy in rows if accuracy["name"] == "strict_accuracy"]
    if not measured:
        return []
    if len(measured) != len(samples):
        raise ValueError(f"{len(measured)} strict accuracies do not come from {len(samples)} lists of samples")
    right, tokens, passes = (
        torch.tensor([[value(sample) for sample in of_setting] for of_setting in samples], dtype=torch.float64)
        for value in (lambda s: float(s.grade.strict), lambda s: float(s.response_tokens), lambda s: float(s.nfe))
    )  # (settings, problems) each
    n = right.shape[1]
    draws = torch.randint(n, (RESAMPLES, n), generator=torch.Generator().manual_seed(0))
    times = torch.stack([torch.bincount(draw, minlength=n) for draw in draws]).double()  # each problem is drawn
    times = torch.cat([torch.ones(1, n, dtype=torch.float64), times])  # first as it was measured
    accuracies = (100 * times @ right.T / n).tolist()
    parallelism = ((times @ tokens.T) / (times @ passes.T)).tolist()
    decoders: dict[tuple[str, ...], list[int]] = {}
    for setting, accuracy in enumerate(measured):
        decoders.setdefault(tuple(str(accuracy[label]) for label in ("decoder", "remasking", "eos")), []).append(
            setting
        )
    found = []
    for (decoder, remasking, eos), settings in decoders.items():
        areas = [
            area_under_parallelism([(p[i], a[i]) for i in settings], best=max(a))
            for p, a in zip(parallelism, accuracies, strict=True)
        ]
        low, high = torch.quantile(torch.tensor(areas[1:]).double(), torch.tensor([0.025, 0.975]).double()).tolist()
        labels = {"decoder": decoder, "remasking": remasking, "eos": eos, "y_max": max(accuracies[0])}
        labels["budgets"] = [measured[i]["steps_per_block"] for i in settings]
        found.append(row("aup", areas[0], low, high, n, "%·tokens/pass", measured[0]["split"], **labels))
    return found
