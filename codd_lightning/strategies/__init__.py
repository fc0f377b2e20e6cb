"""How the processes of a run share its work: DDP, FSDP2, DeepSpeed's ZeRO."""

from codd_lightning.strategies.recipes import DDP, FSDP2, DeepSpeedZero, StrategyRecipe
from codd_lightning.strategies.whole import set_whole_state, whole_state
from codd_lightning.strategies.zero_checkpoints import gathered_weights, read_states

__all__ = [
    "DDP",
    "FSDP2",
    "DeepSpeedZero",
    "StrategyRecipe",
    "gathered_weights",
    "read_states",
    "set_whole_state",
    "whole_state",
]
