"""γ and τ as `codd tune` chose them for a decoder on a circuit."""

from codd_lightning.circuits import Circuit
from codd_lightning.decoding import DecodingConfig
from codd_lightning.evaluation.rows import decoder_label
from codd_lightning.evaluation.settings import rule_labels


def label_of(decoder: DecodingConfig) -> str:
    """The name under which a circuit keeps what was chosen for a decoder."""
    labels = {"decoder": decoder.proposal, "remasking": decoder.remasking, "eos": decoder.eos}
    return decoder_label({**labels, **rule_labels(decoder)})


def tuned_for(circuit: Circuit | None, decoder: DecodingConfig) -> dict[str, float] | None:
    """`gamma` and `tau`, or None where nothing was chosen."""
    choice = None if circuit is None else circuit.tuned.get(label_of(decoder))
    return None if choice is None else {name: choice[name] for name in ("gamma", "tau")}
