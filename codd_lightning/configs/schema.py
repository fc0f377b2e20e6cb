"""Typed schemas: what may be set, of which type, with which default. Imports nothing heavy.

Each choice of a config group has one dataclass, named in the defaults list of its YAML file. An
unknown key or a wrong type fails at composition, before anything is imported or started.
"""

from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING


def ranged(default: Any, minimum: float | None = None, maximum: float | None = None, above: float | None = None) -> Any:
    """A field whose value must be at least `minimum`, at most `maximum`, more than `above`."""
    return field(default=default, metadata={"minimum": minimum, "maximum": maximum, "above": above})


def unused() -> Any:
    """A field without effect, there so that experiments which set it for other choices compose; setting it warns."""
    return field(default=None, metadata={"unused": True})


@dataclass
class PretrainedBackbone:
    """A backbone from a folder or the Hub."""

    _target_: str = "codd_lightning.backbones.load_backbone"
    path_or_repo: str = MISSING
    dtype: str = "float32"
    device: str = "cpu"
    attention: str = "sdpa"


@dataclass
class ScratchBackbone:
    """A small bidirectional Llama, made from scratch, with a tokenizer learnt from the training split."""

    _target_: str = "codd_lightning.backbones.new_backbone"
    tokenizer: str = "words"
    vocab_size: int = ranged(4096, minimum=8)
    tokenizer_examples: int = ranged(20000, minimum=1)
    hidden_size: int = ranged(128, minimum=1)
    num_layers: int = ranged(4, minimum=1)
    num_heads: int = ranged(4, minimum=1)
    intermediate_size: int = ranged(384, minimum=1)
    max_positions: int = ranged(512, minimum=1)
    rope_theta: float = ranged(10000.0, above=0.0)
    weight_spread: float = ranged(0.05, above=0.0)
    attention: str = "eager"


@dataclass
class ExactBackbone:
    """The true conditional marginals of a task whose answers can be listed."""

    _target_: str = "codd_lightning.backbones.exact_backbone"


@dataclass
class HMMCircuit:
    """Hidden Markov model. `max_parameters` makes it as large as that allows, whatever `num_states`."""

    _target_: str = "codd_lightning.circuits.HMM"
    num_states: int = ranged(128, minimum=1)
    max_parameters: int | None = ranged(None, minimum=1)
    homogeneous: bool = True


@dataclass
class MixtureCircuit:
    """Mixture of fully factorized components: the HMM without its chain."""

    _target_: str = "codd_lightning.circuits.Mixture"
    num_states: int = ranged(32, minimum=1)
    max_parameters: int | None = ranged(None, minimum=1)


@dataclass
class TreeCircuit:
    """Hidden balanced binary tree."""

    _target_: str = "codd_lightning.circuits.Tree"
    num_states: int = ranged(128, minimum=1)
    max_parameters: int | None = ranged(None, minimum=1)


@dataclass
class FactorizedCircuit:
    """The circuit that knows nothing; has no parameters to train."""

    _target_: str = "codd_lightning.circuits.Factorized"
    num_states: int | None = unused()
    max_parameters: int | None = unused()


@dataclass
class PretrainedCircuit:
    """A circuit from a folder or the Hub, to evaluate or to train further."""

    _target_: str = "codd_lightning.circuits.load_circuit"
    path_or_repo: str = MISSING
    num_states: int | None = unused()
    max_parameters: int | None = unused()


@dataclass
class Data:
    """What every data choice has."""

    task: Any = MISSING
    block_length: int = ranged(32, minimum=1)
    batch_size: int = ranged(48, minimum=1)
    train_size: int | None = ranged(None, minimum=1)
    validation_size: int | None = ranged(None, minimum=1)
    test_size: int | None = ranged(None, minimum=1)
    max_prompt_tokens: int = ranged(512, minimum=1)
    max_response_tokens: int = ranged(256, minimum=1)
    response_padding: str = "canvas"
    num_workers: int = ranged(0, minimum=0)


@dataclass
class WordedSumsTask:
    """Our own generator of worded arithmetic problems."""

    _target_: str = "codd_lightning.tasks.WordedSums"
    min_steps: int = ranged(2, minimum=1, maximum=4)
    max_steps: int = ranged(3, minimum=1, maximum=4)


@dataclass
class ListTask:
    """Lists, all right answers of which are known."""

    _target_: str = "codd_lightning.tasks.ListTask"
    kind: str = "permutation"
    items: int = ranged(4, minimum=2)
    varies: bool = False
    pool: int = ranged(8, minimum=2, maximum=16)


@dataclass
class ReasoningGymTask:
    """Any dataset of reasoning-gym."""

    _target_: str = "codd_lightning.tasks.ReasoningGymTask"
    dataset: str = MISSING
    options: dict[str, Any] = field(default_factory=dict)


@dataclass
class FileTask:
    """JSONL or Parquet files, or a dataset on the Hub."""

    _target_: str = "codd_lightning.tasks.FileTask"
    train: str | None = None
    validation: str | None = None
    test: str | None = None
    repo: str | None = None
    name: str | None = None
    prompt_field: str = "prompt"
    response_field: str = "response"
    remove: str | None = None


@dataclass
class CoupledLikelihood:
    """Train a circuit on the frozen backbone (paper Eq. 7)."""

    _target_: str = "codd_lightning.modules.CircuitModule"
    canvas: str = "uniform"
    weight: str = "inverse_t"
    fully_masked: float = ranged(0.0, minimum=0.0, maximum=1.0)
    evidence_top_k: int | None = ranged(None, minimum=1)


@dataclass
class Likelihood:
    """Train a circuit on clean text alone; the canvas is that of validation."""

    _target_: str = "codd_lightning.modules.CircuitModule"
    conditional: bool = False
    canvas: str = "uniform"
    weight: str = "flat"
    fully_masked: float = ranged(0.0, minimum=0.0, maximum=1.0)
    evidence_top_k: int | None = ranged(None, minimum=1)


@dataclass
class Initialization:
    """How a circuit starts; see `codd_lightning.modules.Initialization`."""

    _target_: str = "codd_lightning.modules.Initialization"
    kind: str = "random"
    restarts: int = ranged(1, minimum=1)
    trial_steps: int = ranged(20, minimum=1)
    examples: int = ranged(512, minimum=1)


@dataclass
class MaskedDiffusion:
    """Train a backbone."""

    _target_: str = "codd_lightning.modules.BackboneModule"
    canvas: str = "uniform"
    weight: str = "inverse_t"
    fully_masked: float = ranged(0.0, minimum=0.0, maximum=1.0)


@dataclass
class AdamW:
    """AdamW with warm-up and cosine decay."""

    _target_: str = "codd_lightning.modules.AdamW"
    lr: float = ranged(1e-3, above=0.0)
    betas: tuple[float, float] = (0.9, 0.98)
    weight_decay: float = ranged(0.0, minimum=0.0)
    warmup_steps: int = ranged(30, minimum=0)
    final_fraction: float = ranged(0.02, minimum=0.0, maximum=1.0)


@dataclass
class Muon(AdamW):
    """Muon on the matrices of a transformer's layers, AdamW on the rest."""

    _target_: str = "codd_lightning.modules.Muon"
    muon_lr: float = ranged(0.02, above=0.0)
    momentum: float = ranged(0.95, minimum=0.0, maximum=1.0)


@dataclass
class EM:
    """Mini-batch EM of a circuit; trainer.gradient_clip_val does not concern it."""

    _target_: str = "codd_lightning.modules.ExpectationMaximization"
    lr: float = ranged(0.1, above=0.0, maximum=1.0)
    pseudocount: float = ranged(1e-3, minimum=0.0)
    warmup_steps: int = ranged(0, minimum=0)
    final_fraction: float = ranged(0.02, minimum=0.0, maximum=1.0)


@dataclass
class Anemone(EM):
    """EM anchored at the present parameters, with momentum."""

    _target_: str = "codd_lightning.modules.AnemoneEM"
    momentum: float = ranged(0.9, minimum=0.0, maximum=0.9999)


@dataclass
class Decoding:
    """Options of every decoder; see `DecodingConfig`."""

    paradigm: str = "block"
    schedule: str = "even"
    commit: str = "quota"
    commit_bound: float | None = ranged(None, minimum=0.0)
    commit_reads: str = "backbone"
    gamma: float = ranged(1.0, minimum=0.0, maximum=1.0)
    gamma_share: str = "window"
    strict_gamma: bool = False
    reverse_gamma: bool = False
    tau: float = ranged(0.0, minimum=0.0)
    temperature: float = ranged(0.0, minimum=0.0)
    top_p: float | None = ranged(None, above=0.0, maximum=1.0)
    top_k: int | None = ranged(None, minimum=1)
    suppress_tokens: list[int] = field(default_factory=list)
    cache: str = "none"
    cfg_scale: float = ranged(0.0, minimum=0.0)
    evidence_top_k: int | None = ranged(None, minimum=1)


@dataclass
class Decoder:
    """One row of the final table: a proposal, an order and an EOS rule."""

    proposal: str = MISSING
    remasking: str = "low_confidence"
    eos: str = "any"


@dataclass
class Evaluation:
    """What is measured on the test split at the end."""

    decoders: list[Decoder] = field(default_factory=list)
    steps_per_block: list[int] = field(default_factory=lambda: [1, 2, 4, 8, 16, 32])
    examples: int = ranged(500, minimum=0)
    likelihood_examples: int = ranged(500, minimum=0)
    likelihood_canvas: str = "uniform"
    barrier_examples: int = ranged(0, minimum=0)
    batch_size: int = ranged(128, minimum=1)


@dataclass
class Trainer:
    """What Lightning's Trainer is given."""

    accelerator: str = "cpu"
    devices: int = ranged(1, minimum=1)
    precision: str = "32-true"
    max_epochs: int = ranged(1, minimum=1)
    max_steps: int = ranged(-1, minimum=-1)
    gradient_clip_val: float | None = ranged(1.0, above=0.0)
    check_val_every_n_epoch: int = ranged(1, minimum=1)
    log_every_n_steps: int = ranged(10, minimum=1)
    num_threads: int | None = ranged(None, minimum=1)
    progress_bar: bool = True


@dataclass
class FewStepReasoning:
    """Few-step decoding of held-out problems at the end of every epoch."""

    _target_: str = "codd_lightning.callbacks.few_step_reasoning.FewStepReasoning"
    steps_per_block: list[int] = field(default_factory=lambda: [1, 4])
    decoders: list[Decoder] = field(default_factory=list)
    examples: int = ranged(64, minimum=1)
    every_n_epochs: int = ranged(1, minimum=1)
    samples: int = ranged(4, minimum=0)


@dataclass
class Config:
    """The whole of an experiment."""

    backbone: Any = MISSING
    circuit: Any = MISSING
    data: Data = MISSING
    objective: Any = MISSING
    initialization: Initialization = field(default_factory=Initialization)
    optimizer: Any = MISSING
    decoding: Decoding = MISSING
    evaluation: Evaluation = MISSING
    trainer: Trainer = MISSING
    callbacks: dict[str, Any] = field(default_factory=dict)
    experiment_name: str = "unnamed"
    description: str = ""
    seed: int = ranged(0, minimum=0, maximum=2**32 - 1)
    output_dir: str | None = None
    overwrite: bool = False


def register() -> None:
    """Makes the schemas known to Hydra, each under its group."""
    store = ConfigStore.instance()
    store.store(name="schema", node=Config)
    for group, name, node in (
        ("backbone", "pretrained_schema", PretrainedBackbone),
        ("backbone", "scratch_schema", ScratchBackbone),
        ("backbone", "exact_schema", ExactBackbone),
        ("circuit", "hmm_schema", HMMCircuit),
        ("circuit", "mixture_schema", MixtureCircuit),
        ("circuit", "tree_schema", TreeCircuit),
        ("circuit", "factorized_schema", FactorizedCircuit),
        ("circuit", "pretrained_schema", PretrainedCircuit),
        ("data", "data_schema", Data),
        ("task", "worded_sums_schema", WordedSumsTask),
        ("task", "list_schema", ListTask),
        ("task", "reasoning_gym_schema", ReasoningGymTask),
        ("task", "file_schema", FileTask),
        ("objective", "coupled_likelihood_schema", CoupledLikelihood),
        ("objective", "likelihood_schema", Likelihood),
        ("objective", "masked_diffusion_schema", MaskedDiffusion),
        ("optimizer", "adamw_schema", AdamW),
        ("optimizer", "muon_schema", Muon),
        ("optimizer", "em_schema", EM),
        ("optimizer", "anemone_schema", Anemone),
        ("decoding", "decoding_schema", Decoding),
        ("evaluation", "evaluation_schema", Evaluation),
        ("trainer", "trainer_schema", Trainer),
        ("callbacks", "few_step_reasoning_schema", FewStepReasoning),
    ):
        store.store(group=group, name=name, node=node)
