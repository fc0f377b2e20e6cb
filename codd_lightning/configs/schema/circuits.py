"""Choices of the group `circuit`, and how a circuit starts."""

from dataclasses import dataclass

from omegaconf import MISSING

from codd_lightning.configs.schema.fields import ranged, unused


@dataclass
class HMMCircuit:
    """Hidden Markov model. `max_parameters` makes it as large as that allows, whatever `num_states`.

    `vocabulary` "seen" has parameters for the tokens of the training responses, and one row for all others.
    """

    _target_: str = "codd_lightning.circuits.HMM"
    num_states: int = ranged(128, minimum=1)
    max_parameters: int | None = ranged(None, minimum=1)
    vocabulary: str = "all"
    homogeneous: bool = True


@dataclass
class ContextualHMMCircuit:
    """HMM with potentials and emissions that depend on the backbone's hidden states."""

    _target_: str = "codd_lightning.circuits.ContextualHMM"
    num_states: int = ranged(256, minimum=1)
    max_parameters: int | None = ranged(None, minimum=1)
    vocabulary: str = "all"
    latent: str = "mlp"
    latent_width: int = ranged(64, minimum=1)
    roles: int = ranged(16, minimum=0)
    role_rank: int = ranged(16, minimum=1)
    adapter_width: int = ranged(64, minimum=0)
    adapter_layers: int = ranged(1, minimum=1)
    transition_bank: int = ranged(0, minimum=0)
    transition_rank: int = ranged(8, minimum=1)


@dataclass
class SegmentedHMMCircuit:
    """HMM that counts sentences, and in each says what the backbone's hidden states let it say.

    A sentence ends with `stop`, one token of the backbone's.
    """

    _target_: str = "codd_lightning.circuits.SegmentedHMM"
    num_states: int = ranged(256, minimum=1)
    max_parameters: int | None = ranged(None, minimum=1)
    vocabulary: str = "all"
    stop: str = "."
    open_states: int | None = ranged(None, minimum=1)
    segments: int = ranged(4, minimum=1)
    stop_states: int = ranged(4, minimum=1)
    slots: int = ranged(12, minimum=1)
    slot_rank: int = ranged(16, minimum=1)
    latent_width: int = ranged(64, minimum=1)
    adapter_width: int = ranged(64, minimum=16)
    adapter_layers: int = ranged(1, minimum=1)


@dataclass
class MixtureCircuit:
    """Mixture of fully factorized components: the HMM without its chain."""

    _target_: str = "codd_lightning.circuits.Mixture"
    num_states: int = ranged(32, minimum=1)
    max_parameters: int | None = ranged(None, minimum=1)
    vocabulary: str = "all"


@dataclass
class TreeCircuit:
    """Hidden balanced binary tree."""

    _target_: str = "codd_lightning.circuits.Tree"
    num_states: int = ranged(128, minimum=1)
    max_parameters: int | None = ranged(None, minimum=1)
    vocabulary: str = "all"


@dataclass
class SamplerHeadCircuit:
    """No circuit but its learned rival: layers asked again after every token that they draw."""

    _target_: str = "codd_lightning.circuits.SamplerHead"
    num_states: int | None = unused()
    max_parameters: int | None = unused()
    vocabulary: str | None = unused()
    width: int = ranged(64, minimum=1)
    layers: int = ranged(1, minimum=1)
    rank: int = ranged(64, minimum=1)


@dataclass
class FactorizedCircuit:
    """The circuit that knows nothing; has no parameters to train."""

    _target_: str = "codd_lightning.circuits.Factorized"
    num_states: int | None = unused()
    max_parameters: int | None = unused()
    vocabulary: str | None = unused()


@dataclass
class PretrainedCircuit:
    """A bundled circuit ("codd_tiny_one_step"), or one from a folder or the Hub, to evaluate or to train further."""

    _target_: str = "codd_lightning.circuits.load_circuit"
    path_or_repo: str = MISSING
    num_states: int | None = unused()
    max_parameters: int | None = unused()
    vocabulary: str | None = unused()
    latent_width: int | None = unused()
    stop_states: int | None = unused()


@dataclass
class Initialization:
    """How a circuit starts; see `codd_lightning.modules.Initialization`."""

    _target_: str = "codd_lightning.modules.Initialization"
    kind: str = "random"
    restarts: int = ranged(1, minimum=1)
    trial_steps: int = ranged(20, minimum=1)
    examples: int = ranged(512, minimum=1)
