"""Tractable joint distributions over a block of tokens, and the evidence they are conditioned on."""

from codd_lightning.circuits.categorical import draw
from codd_lightning.circuits.circuit import (
    CIRCUITS,
    Circuit,
    describe,
    from_description,
    register_circuit,
)
from codd_lightning.circuits.closed_form import insertion_hmm, permutation_hmm, replacement_hmm
from codd_lightning.circuits.context import Context, Reads
from codd_lightning.circuits.contextual import ContextualHMM, SamplerHead, SegmentedHMM
from codd_lightning.circuits.em import EM, Anemone, CountingOptimizer
from codd_lightning.circuits.errors import CircuitError, EvidenceError
from codd_lightning.circuits.evidence import Evidence
from codd_lightning.circuits.factorized import Factorized
from codd_lightning.circuits.files import load_circuit, save_circuit
from codd_lightning.circuits.health import Health, circuit_health
from codd_lightning.circuits.hmm import HMM
from codd_lightning.circuits.jpc import load_jpc, save_jpc
from codd_lightning.circuits.latent import LatentCircuit
from codd_lightning.circuits.mixture import Mixture
from codd_lightning.circuits.posterior import Mode, Posterior
from codd_lightning.circuits.roles import Roles
from codd_lightning.circuits.search import Completions, beam_search, best_completion, sample_completions
from codd_lightning.circuits.seen import Seen
from codd_lightning.circuits.sizes import most_states
from codd_lightning.circuits.splitting import split_forgetful_states
from codd_lightning.circuits.traces import Traces
from codd_lightning.circuits.tree import Tree

__all__ = [
    "CIRCUITS",
    "EM",
    "HMM",
    "Anemone",
    "Circuit",
    "CircuitError",
    "Completions",
    "Context",
    "ContextualHMM",
    "CountingOptimizer",
    "Evidence",
    "EvidenceError",
    "Factorized",
    "Health",
    "LatentCircuit",
    "Mixture",
    "Mode",
    "Posterior",
    "Reads",
    "Roles",
    "SamplerHead",
    "Seen",
    "SegmentedHMM",
    "Traces",
    "Tree",
    "beam_search",
    "best_completion",
    "circuit_health",
    "describe",
    "draw",
    "from_description",
    "insertion_hmm",
    "load_circuit",
    "load_jpc",
    "most_states",
    "permutation_hmm",
    "register_circuit",
    "replacement_hmm",
    "sample_completions",
    "save_circuit",
    "save_jpc",
    "split_forgetful_states",
]
