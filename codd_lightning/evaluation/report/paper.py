"""The paper's numbers, beside ours where the setting is the same."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from codd_lightning.evaluation.report.runs import Run
from codd_lightning.evaluation.rows import Row


@dataclass(frozen=True)
class Published:
    """One number of the paper.

    Attributes:
        table: where it stands.
        metric: the name of the rows that it may stand beside.
        value: as a fraction.
        config: dotted keys of the configuration that a run must share.
        labels: that a row must share.
    """

    table: str
    metric: str
    value: float
    config: dict[str, Any]
    labels: dict[str, Any]

    def beside(self, run: Run) -> list[Row]:
        """The rows of a run that were measured in the number's setting."""
        if any(run.config.get(key) != value for key, value in self.config.items()):
            return []
        return [
            row
            for row in run.rows
            if row["name"] == self.metric and all(row.get(key) == value for key, value in self.labels.items())
        ]


def published() -> list[Published]:
    """The numbers of `paper_numbers.json`."""
    text = files("codd_lightning.evaluation.report").joinpath("paper_numbers.json").read_text(encoding="utf-8")
    return [Published(**number) for number in json.loads(text)["numbers"]]


def beside_ours(runs: Sequence[Run], numbers: Sequence[Published]) -> list[tuple[Published, Run, Row]]:
    """Each of the paper's numbers with each of our rows of the same setting."""
    return [(number, run, row) for number in numbers for run in runs for row in number.beside(run)]
