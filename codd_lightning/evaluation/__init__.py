"""Measuring decoders and circuits: every number comes from here, as a row."""

from codd_lightning.evaluation.barrier import evaluate_barrier
from codd_lightning.evaluation.few_step import FewStepResult, Sample, evaluate_few_step
from codd_lightning.evaluation.intervals import bootstrap_ratio, wilson
from codd_lightning.evaluation.likelihood import evaluate_likelihood
from codd_lightning.evaluation.rows import Row, decoder_label, row, tag, write_results
from codd_lightning.evaluation.tables import accuracy_table, likelihood_table, render
from codd_lightning.sandbox import run_python

__all__ = [
    "FewStepResult",
    "Row",
    "Sample",
    "accuracy_table",
    "bootstrap_ratio",
    "decoder_label",
    "evaluate_barrier",
    "evaluate_few_step",
    "evaluate_likelihood",
    "likelihood_table",
    "render",
    "row",
    "run_python",
    "tag",
    "wilson",
    "write_results",
]
