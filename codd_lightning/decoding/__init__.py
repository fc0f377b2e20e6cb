"""Few-step decoding: canvas, schedule, remasking strategies, proposals, and one denoising loop."""

from codd_lightning.decoding.canvas import Canvas
from codd_lightning.decoding.commit import COMMIT
from codd_lightning.decoding.config import DecodingConfig
from codd_lightning.decoding.context import context_of
from codd_lightning.decoding.generation import Generation, choose_proposal, generate, infill, require_fit
from codd_lightning.decoding.proposals import PROPOSALS
from codd_lightning.decoding.remasking import REMASKING
from codd_lightning.decoding.replay import Cell, State, steps_of
from codd_lightning.decoding.trace import TraceStep

__all__ = [
    "COMMIT",
    "PROPOSALS",
    "REMASKING",
    "Canvas",
    "Cell",
    "DecodingConfig",
    "Generation",
    "State",
    "TraceStep",
    "choose_proposal",
    "context_of",
    "generate",
    "infill",
    "require_fit",
    "steps_of",
]
