"""Coupled against factorized decoders on the same problems: who is better, said only where it is no chance."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from codd_lightning.evaluation.paired import mcnemar, paired_difference
from codd_lightning.evaluation.report.runs import Key, Record, Run
from codd_lightning.evaluation.rows import series_label
from codd_lightning.evaluation.samples import LABELS

LEVEL = 0.05


@dataclass(frozen=True)
class Comparison:
    """One decoder less another, on the same problems with the same number of steps.

    Attributes:
        run: both are of.
        metric: what they were graded by.
        decoder, other: which are compared.
        steps_per_block: of both.
        difference, low, high: of the accuracies, as fractions, with a paired 95 % bootstrap interval.
        p_value: of McNemar's exact test.
        problems: that both were given.
    """

    run: str
    metric: str
    decoder: str
    other: str
    steps_per_block: int
    difference: float
    low: float
    high: float
    p_value: float
    problems: int

    @property
    def verdict(self) -> str:
        """Better or worse where the interval excludes 0 and the exact test agrees; with few problems it need not."""
        if self.p_value < LEVEL and self.low > 0:
            return "better"
        if self.p_value < LEVEL and self.high < 0:
            return "worse"
        return "no difference shown"


def compare(run: Run) -> list[Comparison]:
    """Every coupled decoder against every factorized one of the same template and steps, where samples were kept."""
    found = []
    for metric in ("strict_accuracy", "flexible_accuracy"):
        grade = metric.removesuffix("_accuracy")
        for coupled, factorized in _pairs(list(run.samples)):
            a, b = _matched(run.samples[coupled], run.samples[factorized], grade)
            if not a:
                continue
            found.append(
                Comparison(
                    run.name,
                    metric,
                    setting_label(run.samples[coupled][0]),
                    setting_label(run.samples[factorized][0]),
                    run.samples[coupled][0]["steps_per_block"],
                    *paired_difference(a, b),
                    p_value=mcnemar(a, b),
                    problems=len(a),
                )
            )
    return found


def setting_label(record: Record) -> str:
    """A sample's decoder as tables name it."""
    return series_label(record)


def _pairs(keys: Sequence[Key]) -> Iterator[tuple[Key, Key]]:
    def place(key: Key) -> tuple[object, ...]:
        named = dict(zip(LABELS, key, strict=True))
        return tuple(named[label] for label in ("template", "commit", "commit_bound", "steps_per_block"))

    for coupled in keys:
        for factorized in keys:
            if coupled[1] != "factorized" and factorized[1] == "factorized" and place(coupled) == place(factorized):
                yield coupled, factorized


def _matched(first: Sequence[Record], second: Sequence[Record], grade: str) -> tuple[list[bool], list[bool]]:
    """Grades of the problems that both have."""
    others = {record["index"]: record for record in second}
    pairs = [(record[grade], others[record["index"]][grade]) for record in first if record["index"] in others]
    return [a for a, _ in pairs], [b for _, b in pairs]
