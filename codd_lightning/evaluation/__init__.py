"""Measuring decoders and circuits: every number comes from here, as a row."""

from codd_lightning.evaluation.across_templates import template_rows
from codd_lightning.evaluation.barrier import evaluate_barrier
from codd_lightning.evaluation.few_step import (
    FewStepEvaluation,
    FewStepResult,
    accuracy_rows,
    evaluate_few_step,
)
from codd_lightning.evaluation.health import evaluate_health
from codd_lightning.evaluation.intervals import bootstrap_ratio, wilson
from codd_lightning.evaluation.likelihood import evaluate_likelihood
from codd_lightning.evaluation.markdown import side_by_side
from codd_lightning.evaluation.parallelism import area_under_parallelism, aup_rows
from codd_lightning.evaluation.remembering import Remembering
from codd_lightning.evaluation.rows import Row, TakesResults, decoder_label, row, tag, write_results
from codd_lightning.evaluation.samples import Sample, SampleFolder, write_samples
from codd_lightning.evaluation.settings import settings_of
from codd_lightning.evaluation.subtasks import subtask_rows
from codd_lightning.evaluation.tables import accuracy_table, likelihood_table, render
from codd_lightning.evaluation.throughput import Spent, throughput_rows
from codd_lightning.evaluation.traces import decode_traces
from codd_lightning.sandbox import run_python

__all__ = [
    "FewStepEvaluation",
    "FewStepResult",
    "Remembering",
    "Row",
    "Sample",
    "SampleFolder",
    "Spent",
    "TakesResults",
    "accuracy_rows",
    "accuracy_table",
    "area_under_parallelism",
    "aup_rows",
    "bootstrap_ratio",
    "decode_traces",
    "decoder_label",
    "evaluate_barrier",
    "evaluate_few_step",
    "evaluate_health",
    "evaluate_likelihood",
    "likelihood_table",
    "render",
    "row",
    "run_python",
    "settings_of",
    "side_by_side",
    "subtask_rows",
    "tag",
    "template_rows",
    "throughput_rows",
    "wilson",
    "write_results",
    "write_samples",
]
