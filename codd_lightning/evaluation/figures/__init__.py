"""Every figure of the project, from rows: one look, vector output, no global state."""

from codd_lightning.evaluation.figures.accuracy import COSTS, accuracy_by, latency
from codd_lightning.evaluation.figures.barrier import QUANTITIES, Learnt, barrier_by_states
from codd_lightning.evaluation.figures.grids import gamma_tau, heat_map
from codd_lightning.evaluation.figures.likelihood import gain_by_mask_ratio, misspecification_gap
from codd_lightning.evaluation.figures.pareto import accuracy_pareto, pareto_front
from codd_lightning.evaluation.figures.style import pixels, svg, write_figure

__all__ = [
    "COSTS",
    "QUANTITIES",
    "Learnt",
    "accuracy_by",
    "accuracy_pareto",
    "barrier_by_states",
    "gain_by_mask_ratio",
    "gamma_tau",
    "heat_map",
    "latency",
    "misspecification_gap",
    "pareto_front",
    "pixels",
    "svg",
    "write_figure",
]
