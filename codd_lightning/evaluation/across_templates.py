"""What is left of an accuracy when the prompt is put differently (arXiv 2606.29228: rankings flip with it)."""

from collections.abc import Sequence

import torch

from codd_lightning.evaluation.intervals import bootstrap_spread, wilson
from codd_lightning.evaluation.rows import Row, row
from codd_lightning.evaluation.samples import Sample

MEAN = "mean of templates"


def template_rows(settings: Sequence[Sequence[Sample]], split: str) -> list[Row]:
    """Mean and spread (largest less smallest) over templates of each decoder's accuracies at each budget.

    The interval of a mean is Wilson's for the number of problems, as if further templates told nothing new of one:
    rather too wide. That of a spread resamples problems whole, each with all its templates.

    Args:
        settings: the samples of each setting, in the order of the problems.
        split: for the rows.
    """
    groups: dict[tuple[tuple[str, object], ...], list[Sequence[Sample]]] = {}
    for samples in settings:
        labels = tuple((name, value) for name, value in samples[0].labels.items() if name != "template")
        groups.setdefault(labels, []).append(samples)
    rows = []
    for labels, group in groups.items():
        if len(group) < 2:
            continue
        for grade in ("strict", "flexible"):
            right = torch.tensor([[float(getattr(s.grade, grade)) for s in samples] for samples in group]).double()
            name, n = f"{grade}_accuracy", right.shape[1]
            mean = float(right.mean())
            low, high = wilson(mean * n, n)
            rows.append(row(name, mean, low, high, n, "fraction", split, template=MEAN, **dict(labels)))
            accuracies = right.mean(1)
            low, high = bootstrap_spread(right)
            spread = float(accuracies.max() - accuracies.min())
            rows.append(row(f"{name}_spread", spread, low, high, n, "fraction", split, **dict(labels)))
    return rows
