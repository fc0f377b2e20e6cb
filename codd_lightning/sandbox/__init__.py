"""Running code that a model wrote, without trusting it."""

from codd_lightning.sandbox.limits import Limits
from codd_lightning.sandbox.run import SANDBOXES, Result, run_python

__all__ = ["SANDBOXES", "Limits", "Result", "run_python"]
