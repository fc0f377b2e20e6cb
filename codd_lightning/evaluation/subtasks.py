"""Accuracies of the subtasks that a benchmark is made of."""

from collections.abc import Sequence

from codd_lightning.evaluation.few_step import accuracy_rows
from codd_lightning.evaluation.rows import Row
from codd_lightning.evaluation.samples import Sample


def subtask_rows(samples: Sequence[Sample], split: str) -> list[Row]:
    """Strict and flexible accuracy of each subtask, in the order of the samples, at 95 % (Wilson).

    The rows are named `strict_accuracy_of_subtask` and `flexible_accuracy_of_subtask`, apart from those of the whole.

    Args:
        samples: of one setting; the `problem` of each example names its `subtask`. Others have none and give no row.
        split: which they come from.
    """
    by_subtask: dict[str, list[Sample]] = {}
    for sample in samples:
        subtask = getattr(sample.example.problem, "subtask", None)
        if subtask is not None:
            by_subtask.setdefault(subtask, []).append(sample)
    return [
        {**measured, "name": f"{measured['name']}_of_subtask", "subtask": subtask}
        for subtask, of_it in by_subtask.items()
        for measured in accuracy_rows(of_it, split)
    ]
