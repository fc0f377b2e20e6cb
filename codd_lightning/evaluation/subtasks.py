"""Accuracies of the subtasks that a benchmark is made of."""

from collections.abc import Sequence
from typing import Any

from codd_lightning.evaluation.few_step import Sample
from codd_lightning.evaluation.intervals import wilson
from codd_lightning.evaluation.rows import Row, row


def subtask_rows(samples: Sequence[Sample], split: str = "test", **labels: Any) -> list[Row]:
    """Strict and flexible accuracy of each subtask, in the order of the samples, at 95 % (Wilson).

    The rows are named `strict_accuracy_of_subtask` and `flexible_accuracy_of_subtask`, apart from those of the whole.

    Args:
        samples: of one decoder at one step budget; the `problem` of each example names its `subtask`. Others have none
            and give no row.
        split: which they come from.
        labels: further labels of the rows, such as the decoder's order and EOS rule.
    """
    by_subtask: dict[str, list[Sample]] = {}
    for sample in samples:
        subtask = getattr(sample.example.problem, "subtask", None)
        if subtask is not None:
            by_subtask.setdefault(subtask, []).append(sample)
    rows = []
    for subtask, of_it in by_subtask.items():
        n = len(of_it)
        nfe = sum(sample.nfe for sample in of_it)
        shared = {
            "subtask": subtask,
            "decoder": of_it[0].decoder,
            "steps_per_block": of_it[0].steps_per_block,
            "nfe": nfe / n,
            "tpf": sum(sample.response_tokens for sample in of_it) / nfe,
            **labels,
        }
        for name, right in (
            ("strict_accuracy_of_subtask", sum(sample.grade.strict for sample in of_it)),
            ("flexible_accuracy_of_subtask", sum(sample.grade.flexible for sample in of_it)),
        ):
            rows.append(row(name, right / n, *wilson(right, n), n, "fraction", split, **shared))
    return rows
