"""The forward (masking) process and the weights of its loss."""

from codd_lightning.diffusion.forward_process import CANVASES, Noised, NoiseLevel, corrupt
from codd_lightning.diffusion.weights import WEIGHTS

__all__ = ["CANVASES", "WEIGHTS", "NoiseLevel", "Noised", "corrupt"]
