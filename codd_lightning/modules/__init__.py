"""LightningModules: a backbone, alone or with a circuit, under a training objective."""

from codd_lightning.modules.backbone_module import BackboneModule
from codd_lightning.modules.blocks import (
    clean_blocks,
    conditional_log_likelihood,
    response_blocks,
    scored_blocks,
)
from codd_lightning.modules.caching import write_evidence
from codd_lightning.modules.circuit_module import CircuitModule
from codd_lightning.modules.cycles import CyclicAdamW
from codd_lightning.modules.initialization import Initialization
from codd_lightning.modules.joint_module import JointModule
from codd_lightning.modules.noise import Noise
from codd_lightning.modules.optimizers import (
    AdamW,
    AnemoneEM,
    CountingRecipe,
    ExpectationMaximization,
    Muon,
    OptimizerRecipe,
    Schedule,
)
from codd_lightning.modules.policy_module import PolicyModule

__all__ = [
    "AdamW",
    "AnemoneEM",
    "BackboneModule",
    "CircuitModule",
    "CountingRecipe",
    "CyclicAdamW",
    "ExpectationMaximization",
    "Initialization",
    "JointModule",
    "Muon",
    "Noise",
    "OptimizerRecipe",
    "PolicyModule",
    "Schedule",
    "clean_blocks",
    "conditional_log_likelihood",
    "response_blocks",
    "scored_blocks",
    "write_evidence",
]
