"""Proposals: which tokens one denoising step commits, where, and how sure.

Every proposal answers the same question: *given the backbone's prediction of a window (and, for those
with a circuit, its posterior), this many tokens may be committed in each row, positions are ranked
like this: which tokens, where, how sure?* Importing this package registers them all.
"""

from codd_lightning.decoding.proposals import any_order, factorized, latent, marginal, search
from codd_lightning.decoding.question import PROPOSALS

__all__ = ["PROPOSALS", "any_order", "factorized", "latent", "marginal", "search"]
