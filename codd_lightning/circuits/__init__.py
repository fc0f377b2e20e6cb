"""Tractable joint distributions over a block of tokens, and the evidence they are conditioned on."""

from codd_lightning.circuits.categorical import draw
from codd_lightning.circuits.circuit import CIRCUITS, Circuit, Posterior, register_circuit
from codd_lightning.circuits.errors import CircuitError, EvidenceError
from codd_lightning.circuits.evidence import Evidence
from codd_lightning.circuits.files import load_circuit, save_circuit
from codd_lightning.circuits.hmm import HMM

__all__ = [
    "CIRCUITS",
    "HMM",
    "Circuit",
    "CircuitError",
    "Evidence",
    "EvidenceError",
    "Posterior",
    "draw",
    "load_circuit",
    "register_circuit",
    "save_circuit",
]
