"""Circuits whose parameters depend on the backbone's hidden states (paper, appendix E), and their learned rival."""

from codd_lightning.circuits.contextual.hmm import ContextualHMM
from codd_lightning.circuits.contextual.sampler import SamplerHead
from codd_lightning.circuits.contextual.segmented import SegmentedHMM

__all__ = ["ContextualHMM", "SamplerHead", "SegmentedHMM"]
