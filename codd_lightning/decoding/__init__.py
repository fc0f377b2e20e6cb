"""Few-step decoding: canvas, schedule, remasking strategies, proposals, and one denoising loop."""

from codd_lightning.decoding.config import DecodingConfig
from codd_lightning.decoding.generation import Generation, TraceStep, choose_proposal, generate, require_fit
from codd_lightning.decoding.proposals import PROPOSALS
from codd_lightning.decoding.remasking import REMASKING

__all__ = [
    "PROPOSALS",
    "REMASKING",
    "DecodingConfig",
    "Generation",
    "TraceStep",
    "choose_proposal",
    "generate",
    "require_fit",
]
