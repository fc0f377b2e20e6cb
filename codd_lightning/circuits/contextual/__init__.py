"""Circuits whose parameters depend on the backbone's hidden states (paper, appendix E)."""

from codd_lightning.circuits.contextual.hmm import ContextualHMM

__all__ = ["ContextualHMM"]
