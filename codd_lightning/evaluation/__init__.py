"""Measuring decoders and circuits: every number comes from here, as a row."""

from codd_lightning.evaluation.barrier import evaluate_barrier
from codd_lightning.evaluation.few_step import FewStepEvaluation, FewStepResult, evaluate_few_step, setting_of
from codd_lightning.evaluation.intervals import bootstrap_ratio, wilson
from codd_lightning.evaluation.likelihood import evaluate_likelihood
from codd_lightning.evaluation.rows import Row, decoder_label, row, tag, write_results
from codd_lightning.evaluation.samples import Sample, SampleFolder, write_samples
from codd_lightning.evaluation.tables import accuracy_table, likelihood_table, render

__all__ = [
    "FewStepEvaluation",
    "FewStepResult",
    "Row",
    "Sample",
    "SampleFolder",
    "accuracy_table",
    "bootstrap_ratio",
    "decoder_label",
    "evaluate_barrier",
    "evaluate_few_step",
    "evaluate_likelihood",
    "likelihood_table",
    "render",
    "row",
    "setting_of",
    "tag",
    "wilson",
    "write_results",
    "write_samples",
]
