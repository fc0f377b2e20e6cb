"""How many of its states a circuit uses, and how sure its transitions are."""

from dataclasses import dataclass

from codd_lightning.circuits.circuit import Circuit
from codd_lightning.circuits.evidence import Evidence
from codd_lightning.circuits.factorized import Factorized
from codd_lightning.circuits.latent import LatentCircuit
from codd_lightning.circuits.scaling import entropy_of


@dataclass(frozen=True)
class Health:
    """What a circuit's states are used for under some evidence.

    A state's usage is the expected share of positions that it emits.

    Attributes:
        num_states: N.
        effective_states: exponential of the entropy of the usage, 1 to N.
        dead_states: states of a usage below 1/(100 N).
        transition_entropy: nats, mean entropy of a transition's row over the transitions that are expected, 0 to log N;
            None where there are none.
    """

    num_states: int
    effective_states: float
    dead_states: int
    transition_entropy: float | None


def circuit_health(circuit: Circuit, evidence: Evidence) -> Health | None:
    """The health of a circuit under evidence; None for a structure without states.

    Args:
        circuit: of which the states are counted.
        evidence: what it is conditioned on, such as blocks of true tokens; `Evidence.nothing_known` asks for the
            circuit alone.
    """
    core = circuit.core
    if not isinstance(core, LatentCircuit) or isinstance(core, Factorized):
        return None
    counts = {table: count.double() for table, count in circuit.expected_counts(evidence).items()}
    usage = counts["emission"].sum((0, 1))  # (N,)
    usage = usage / usage.sum()
    entropy = None
    if "transition" in counts and bool(counts["transition"].any()):
        dim = core.tables["transition"]
        rows = entropy_of(core.get_parameter("transition_logits").detach().double().softmax(dim))
        expected = counts["transition"].sum(dim)
        entropy = float((rows * expected).sum() / expected.sum())
    return Health(
        num_states=core.num_states,
        effective_states=float(entropy_of(usage).exp()),
        dead_states=int((usage < 1 / (100 * core.num_states)).sum()),
        transition_entropy=entropy,
    )
