"""Fields of the schemas, with what their values must be."""

from dataclasses import field
from typing import Any


def ranged(default: Any, minimum: float | None = None, maximum: float | None = None, above: float | None = None) -> Any:
    """A field whose value must be at least `minimum`, at most `maximum`, more than `above`."""
    return field(default=default, metadata={"minimum": minimum, "maximum": maximum, "above": above})


def unused() -> Any:
    """A field without effect, there so that experiments which set it for other choices compose; setting it warns."""
    return field(default=None, metadata={"unused": True})
