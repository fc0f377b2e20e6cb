"""What a run is checked for once it is built and before anything is written."""

import logging
from collections.abc import Sequence

import torch
from omegaconf import DictConfig, OmegaConf

from codd_lightning.backbones import multiplies_bfloat16
from codd_lightning.cli.build import Experiment, decoding_config
from codd_lightning.cli.compose import callbacks_of
from codd_lightning.cli.tuned import label_of
from codd_lightning.cli.world import require_devices, require_world
from codd_lightning.configs.schema.training import CyclicAdamW, Muon
from codd_lightning.decoding import DecodingConfig, choose_proposal
from codd_lightning.diffusion import CANVASES
from codd_lightning.errors import UserError
from codd_lightning.modules import BackboneModule, CircuitModule, PolicyModule
from codd_lightning.tasks import SPLITS

log = logging.getLogger("codd_lightning")

PRETRAINED_CIRCUIT = "codd_lightning.circuits.load_circuit"
PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")


def require_feasible(config: DictConfig, experiment: Experiment, training: bool = True) -> None:
    """Refuses what could only fail after something was written.

    Args:
        config: of the run.
        experiment: what was built of it.
        training: False where it is only measured, on the test split.

    Raises:
        UserError: names the option, its value and the mend.
    """
    if training:
        require_world(config)
    else:
        require_devices(config)
    _check_precision(config)
    _check_evidence(config, experiment)
    _check_data(config, experiment, training)
    if training:
        _check_training(config, experiment)
    _check_evaluation(config, experiment)
    if training:
        _warn_of_emulation(config)


def _check_evidence(config: DictConfig, experiment: Experiment) -> None:
    circuit = experiment.circuit
    learnt = config.objective.get("evidence_top_k") if config.cache.path is None else config.cache.top_k
    asked = config.decoding.evidence_top_k
    if learnt != asked and getattr(circuit, "num_roles", 0):
        named = f"objective.evidence_top_k={learnt} and decoding.evidence_top_k={asked}"
        log.warning("%s: roles learn of the tokens that evidence keeps, and are asked of others: set both alike", named)
    if circuit is None or circuit.takes_truncated:
        return
    for group, option in (("objective", "evidence_top_k"), ("decoding", "evidence_top_k"), ("cache", "top_k")):
        kept = config[group].get(option)
        if kept is not None:
            raise UserError(
                f"{group}.{option}={kept}: circuit={circuit.structure} reads whole distributions: use {option}=null"
            )


def _check_training(config: DictConfig, experiment: Experiment) -> None:
    try:
        if isinstance(experiment.module, BackboneModule | CircuitModule | PolicyModule):
            experiment.module.optimizer_for(total_steps=1)
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"optimizer: {error}") from None
    _warn_of_idle_cycles(config, experiment)
    strategy = config.trainer.strategy
    if experiment.circuit is not None and experiment.circuit.reads and strategy.get("stage") == 3:
        raise UserError(
            f"trainer.strategy.stage=3: DeepSpeed loses the weights of a circuit that reads the context "
            f"(circuit={experiment.circuit.structure}) before its backward pass: use trainer=fsdp2, or stage 2"
        )
    if isinstance(experiment.module, PolicyModule) and config.trainer.precision == "16-mixed":
        raise UserError("trainer.precision=16-mixed scales gradients, which objective=diffu_grpo clips: use bf16-mixed")
    for name, callback in callbacks_of(config):
        if "decoders" in callback and not callback.decoders:
            raise UserError(f"callbacks.{name}.decoders is empty: name at least one, or use callbacks=none")
        decoders = [decoding_config(config, decoder, experiment.circuit) for decoder in callback.get("decoders", [])]
        _check_decoders(f"callbacks.{name}.decoders", decoders, experiment)
        _check_budgets(config, f"callbacks.{name}", callback.get("steps_per_block", []))
        require_examples(f"callbacks.{name}.examples", callback.get("examples", 0), experiment, "validation")
    if not experiment.initialization.leaves_as_made:
        if experiment.circuit is None or not any(p.requires_grad for p in experiment.circuit.parameters()):
            raise UserError("initialization: there is no circuit to train here")
        if not experiment.circuit.has_latents:
            raise UserError(
                f"initialization.kind={config.initialization.kind} starts latent states, and "
                f"circuit={experiment.circuit.structure} has none: leave it out"
            )
        if experiment.cache is not None and experiment.initialization.asks_backbone:
            raise UserError(
                f"initialization (kind={config.initialization.kind}, restarts={config.initialization.restarts}) asks "
                "the backbone, which stays out of memory in training from a cache: leave cache.path out, or use "
                "kind=random or uniform with restarts=1"
            )
        if config.circuit._target_ == PRETRAINED_CIRCUIT:
            raise UserError("initialization would replace what circuit=pretrained has learnt: leave one of them out")
    if experiment.circuit is not None and not hasattr(experiment.module, "circuit"):
        raise UserError("this objective trains no circuit: add circuit=none")


def _warn_of_idle_cycles(config: DictConfig, experiment: Experiment) -> None:
    recipe = config.optimizer
    if OmegaConf.get_type(recipe) is not CyclicAdamW:
        return
    circuit = experiment.circuit
    tables = circuit is not None and bool(circuit.core.tables)
    reads = circuit is not None and bool(circuit.reads)
    for option, heeded in (("head_lr", tables and reads), ("later_lr", tables), ("alone_cycles", circuit is not None)):
        if recipe[option] and not heeded:
            log.warning("optimizer.%s=%s has no effect here", option, recipe[option])


def _check_evaluation(config: DictConfig, experiment: Experiment) -> None:
    _check_budgets(config, "evaluation", config.evaluation.steps_per_block)
    if config.evaluation.sample_likelihood and not (config.evaluation.examples and experiment.decoders):
        raise UserError("evaluation.sample_likelihood=true needs samples: evaluation.examples and evaluation.decoders")
    if config.evaluation.likelihood_canvas not in (*CANVASES, "mixed"):
        known = ", ".join((*CANVASES, "mixed"))
        raise UserError(f"evaluation.likelihood_canvas={config.evaluation.likelihood_canvas} is not one of {known}")
    budgets = list(config.evaluation.steps_per_block)
    if len(set(budgets)) < len(budgets):
        raise UserError(f"evaluation.steps_per_block={budgets} names a budget twice")
    _check_decoders("evaluation.decoders", experiment.decoders, experiment)
    templates = list(config.evaluation.templates)
    if len(set(templates)) < len(templates):
        raise UserError(f"evaluation.templates names one twice, and their rows could not be told apart: {templates}")
    for template in config.evaluation.templates:
        if template not in experiment.data.templates:
            known = ", ".join(experiment.data.templates)
            raise UserError(f"evaluation.templates: {template} is not one of {known}")
    if config.evaluation.examples and not config.evaluation.steps_per_block and experiment.decoders:
        raise UserError("evaluation.steps_per_block=[] measures nothing: name a budget, or evaluation.examples=0")


def _check_decoders(option: str, decoders: Sequence[DecodingConfig], experiment: Experiment) -> None:
    """Refuses decoders that need what the circuit has not, or whose rows could not be told apart."""
    for decoder in decoders:
        if decoder.proposal not in (None, "factorized") and experiment.circuit is None:
            raise UserError(f"{option}: {decoder.proposal} needs a circuit, and circuit=none")
        try:
            choose_proposal(decoder, experiment.circuit)
        except UserError as error:
            raise UserError(f"{option}: {error}") from None
    labels = [label_of(decoder) for decoder in decoders]
    twice = [label for label in labels if labels.count(label) > 1]
    if twice:
        raise UserError(f"{option} names {twice[0]} twice, and their rows could not be told apart")


def _check_precision(config: DictConfig) -> None:
    precision = config.trainer.precision
    if precision not in PRECISIONS:
        raise UserError(f"trainer.precision={precision} is not one of {', '.join(PRECISIONS)}")


def _warn_of_emulation(config: DictConfig) -> None:
    """Says what will be slow where the hardware has no bfloat16."""
    if multiplies_bfloat16(config.trainer.accelerator != "cpu" and torch.cuda.is_available()):
        return
    slow = "multiplies in bfloat16, which this hardware only emulates: a step may take many times as long as with"
    if config.trainer.precision == "bf16-mixed":
        log.warning("trainer.precision=bf16-mixed %s trainer.precision=32-true", slow)
    if OmegaConf.get_type(config.optimizer) is Muon:
        log.warning("optimizer=muon %s optimizer=adamw", slow)


def _check_data(config: DictConfig, experiment: Experiment, training: bool) -> None:
    for split in SPLITS if training else ("test",):
        experiment.data.dataset(split).example(0)  # one that fits
    if config.evaluation.examples or any(callback.get("examples", 0) for _, callback in callbacks_of(config)):
        example, _ = experiment.data.dataset("test").example(0)
        experiment.task.grade(example, example.response, ended=True)  # code needs a sandbox, which may be missing here
    if training:
        _check_batches(config, experiment)
    if config.evaluation.barrier_examples and not hasattr(experiment.task, "answers"):
        name = type(experiment.task).__name__
        raise UserError(f"evaluation.barrier_examples: the answers of {name} cannot be listed; use 0, or data=lists")
    for name in ("examples", "likelihood_examples", "barrier_examples"):
        require_examples(f"evaluation.{name}", config.evaluation[name], experiment, "test")


def _check_batches(config: DictConfig, experiment: Experiment) -> None:
    data = config.data
    if (there := len(experiment.data.dataset("train"))) < data.batch_size:
        raise UserError(f"data.batch_size={data.batch_size} is more than the {there} examples of the train split")


def require_examples(option: str, wanted: int, experiment: Experiment, split: str) -> None:
    """Refuses to take more examples of a split than there are.

    Raises:
        UserError: names the option.
    """
    if wanted > (there := len(experiment.data.dataset(split))):
        raise UserError(f"{option}={wanted} is more than the {there} examples of the {split} split")


def _check_budgets(config: DictConfig, owner: str, budgets: Sequence[int]) -> None:
    if min(budgets, default=1) < 1:
        raise UserError(f"{owner}.steps_per_block={list(budgets)} must be at least 1 each")
    if max(budgets, default=1) > config.data.block_length:
        raise UserError(
            f"{owner}.steps_per_block={max(budgets)} is more than the {config.data.block_length} tokens of a block"
        )
