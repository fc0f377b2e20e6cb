"""Typed schemas: what may be set, of which type, with which default. Imports nothing heavy.

Each choice of a config group has one dataclass, named in the defaults list of its YAML file. An
unknown key or a wrong type fails at composition, before anything is imported or started.
"""

from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING

from codd_lightning.configs.schema.backbones import (
    ExactBackbone,
    PretrainedBackbone,
    ScratchBackbone,
)
from codd_lightning.configs.schema.cache import Cache
from codd_lightning.configs.schema.callbacks import (
    Charts,
    CircuitHealth,
    DenoisingTraces,
    FewStepReasoning,
    GapCurve,
    HParams,
    Throughput,
)
from codd_lightning.configs.schema.circuits import (
    ContextualHMMCircuit,
    FactorizedCircuit,
    HMMCircuit,
    Initialization,
    MixtureCircuit,
    PretrainedCircuit,
    SamplerHeadCircuit,
    SegmentedHMMCircuit,
    TreeCircuit,
)
from codd_lightning.configs.schema.data import (
    Data,
    FileTask,
    ListTask,
    ParallelBench,
    ParallelBenchTask,
    ReasoningGymTask,
    WordedSumsTask,
)
from codd_lightning.configs.schema.evaluation import (
    Decoding,
    Evaluation,
    Tuning,
)
from codd_lightning.configs.schema.fields import ranged
from codd_lightning.configs.schema.training import (
    DDP,
    EM,
    FSDP2,
    AdamW,
    Anemone,
    CoupledLikelihood,
    CyclicAdamW,
    DeepSpeedZero,
    DiffuGRPO,
    JointLikelihood,
    Likelihood,
    MaskedDiffusion,
    Muon,
    Trainer,
)


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
    tuning: Tuning = field(default_factory=Tuning)
    trainer: Trainer = MISSING
    cache: Cache = field(default_factory=Cache)
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
        ("circuit", "contextual_hmm_schema", ContextualHMMCircuit),
        ("circuit", "segmented_hmm_schema", SegmentedHMMCircuit),
        ("circuit", "mixture_schema", MixtureCircuit),
        ("circuit", "tree_schema", TreeCircuit),
        ("circuit", "sampler_head_schema", SamplerHeadCircuit),
        ("circuit", "factorized_schema", FactorizedCircuit),
        ("circuit", "pretrained_schema", PretrainedCircuit),
        ("data", "data_schema", Data),
        ("data", "parallelbench_schema", ParallelBench),
        ("task", "worded_sums_schema", WordedSumsTask),
        ("task", "list_schema", ListTask),
        ("task", "reasoning_gym_schema", ReasoningGymTask),
        ("task", "file_schema", FileTask),
        ("task", "parallelbench_schema", ParallelBenchTask),
        ("objective", "coupled_likelihood_schema", CoupledLikelihood),
        ("objective", "joint_likelihood_schema", JointLikelihood),
        ("objective", "likelihood_schema", Likelihood),
        ("objective", "masked_diffusion_schema", MaskedDiffusion),
        ("objective", "diffu_grpo_schema", DiffuGRPO),
        ("optimizer", "adamw_schema", AdamW),
        ("optimizer", "muon_schema", Muon),
        ("optimizer", "adamw_cycles_schema", CyclicAdamW),
        ("optimizer", "em_schema", EM),
        ("optimizer", "anemone_schema", Anemone),
        ("decoding", "decoding_schema", Decoding),
        ("evaluation", "evaluation_schema", Evaluation),
        ("trainer", "trainer_schema", Trainer),
        ("strategy", "ddp_schema", DDP),
        ("strategy", "fsdp2_schema", FSDP2),
        ("strategy", "deepspeed_schema", DeepSpeedZero),
        ("callbacks", "few_step_reasoning_schema", FewStepReasoning),
        ("callbacks", "charts_schema", Charts),
        ("callbacks", "gap_curve_schema", GapCurve),
        ("callbacks", "denoising_traces_schema", DenoisingTraces),
        ("callbacks", "circuit_health_schema", CircuitHealth),
        ("callbacks", "throughput_schema", Throughput),
        ("callbacks", "hparams_schema", HParams),
    ):
        store.store(group=group, name=name, node=node)
