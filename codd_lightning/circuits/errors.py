"""What can be wrong with what a circuit is given."""


class CircuitError(ValueError):
    """A circuit, or a call to one, does not fit: its shapes, its vocabulary, its file."""


class EvidenceError(CircuitError):
    """Evidence that no completion can satisfy, or that does not have the shape it must have."""
