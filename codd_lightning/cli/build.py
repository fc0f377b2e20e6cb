"""From a composed configuration to the objects of a run."""

import dataclasses
import inspect
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

import lightning as L
from hydra.utils import get_method, get_object
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from codd_lightning.backbones import Backbone, BackboneLike
from codd_lightning.circuits import Circuit, Seen, most_states
from codd_lightning.cli.cache_settings import open_cache, require_stored
from codd_lightning.cli.compose import callbacks_of, without_effect
from codd_lightning.cli.tuned import label_of, tuned_for
from codd_lightning.configs.schema.data import Data
from codd_lightning.configs.schema.data import Template as TemplateOptions
from codd_lightning.data import CachedDataModule, TaskDataModule, Template
from codd_lightning.decoding import DecodingConfig, require_fit
from codd_lightning.errors import UserError
from codd_lightning.modules import Initialization, Noise, Schedule
from codd_lightning.strategies import StrategyRecipe
from codd_lightning.tasks import SPLITS, Task

MASKING = ("canvas", "fully_masked", "from_left")  # options of objectives that mask
VOCABULARIES = ("all", "seen")
PRETRAINED = "codd_lightning.backbones.load_backbone"
# What every data choice has.
DATA_OPTIONS = {option.name for option in fields(Data)}


@dataclass(frozen=True)
class Experiment:
    """The objects of one run; with a cache, the backbone is without weights until `with_weights` gives them.

    So it is where the strategy reads them, a piece on each rank.
    """

    task: Task
    backbone: Backbone
    circuit: Circuit | None
    data: TaskDataModule
    cache: CachedDataModule | None
    noise: Noise
    module: L.LightningModule
    decoders: list[DecodingConfig]
    callbacks: list[L.Callback]
    initialization: Initialization


def build(config: DictConfig, in_pieces: bool = False) -> Experiment:
    """Builds everything that a run needs, in the order in which one thing needs another.

    Args:
        config: of the run.
        in_pieces: leave the backbone's weights to the strategy.

    Raises:
        UserError: values do not fit together.
    """
    task = make_task(config)
    backbone = _backbone(config, task, weights=config.cache.path is None and not in_pieces)
    if not backbone.eos_token_ids:
        raise UserError("the backbone names no end-of-sequence token, so responses could not end")
    data = make_data(config, task, backbone)
    cache = None if config.cache.path is None else open_cache(config, data)
    circuit = None
    if config.circuit._target_ is not None:
        circuit = _circuit(config, backbone, data)
    if circuit is not None and cache is not None:  # the module, which sees no backbone, cannot tell
        require_fit(backbone, circuit, config.data.block_length)
        require_stored(config, circuit)
    masking = {name: config.objective[name] for name in MASKING if name in config.objective}
    noise = Noise(block_length=config.data.block_length, seed=config.seed, **masking)
    optimizer = make(config.optimizer, Schedule, "optimizer")
    parts: dict[str, Any] = {
        "backbone": backbone if cache is None else None,
        "noise": noise,
        "optimizer": optimizer,
        "data": data,
        "gradient_clip_val": config.trainer.gradient_clip_val,
    }
    if circuit is not None:
        parts["circuit"] = circuit
    module = make(config.objective, L.LightningModule, "objective", **parts)
    decoders = [decoding_config(config, decoder, circuit) for decoder in config.evaluation.decoders]
    initialization = make(config.initialization, Initialization, "initialization")
    callbacks = _callbacks(config, circuit, data)
    return Experiment(task, backbone, circuit, data, cache, noise, module, decoders, callbacks, initialization)


def comes_in_pieces(config: DictConfig) -> bool:
    """Whether the backbone gets its weights from the strategy, which splits them among the ranks as it reads.

    One that is made from scratch has none to read, and one that is asked for the circuit's start must be whole.
    """
    initialization = make(config.initialization, Initialization, "initialization")
    stored = config.backbone._target_ == PRETRAINED
    return make_strategy(config).shards and stored and not initialization.asks_backbone


def with_weights(config: DictConfig, experiment: Experiment) -> Experiment:
    """The same with the backbone's weights in memory: what is measured after training from a cache needs them."""
    if experiment.cache is None:
        return experiment
    return dataclasses.replace(experiment, backbone=_backbone(config, experiment.task, weights=True))


def _backbone(config: DictConfig, task: Task, weights: bool) -> Backbone:
    """The backbone; without weights it still knows its tokens, its tokenizer and its shape."""
    options = config.backbone
    if not weights and "device" in options:
        options = OmegaConf.merge(options, {"device": "meta"})  # none are read
    backbone: Backbone = make(
        options, BackboneLike, "backbone", texts=_texts(config, task), seed=config.seed, task=task
    )
    in_files = getattr(backbone, "stored", None) is not None
    return backbone if weights or in_files else backbone.to("meta")


def _circuit(config: DictConfig, backbone: Backbone, data: TaskDataModule) -> Circuit:
    vocabulary = config.circuit.get("vocabulary") or "all"
    if vocabulary not in VOCABULARIES:
        raise UserError(f"circuit.vocabulary={vocabulary} is not one of {', '.join(VOCABULARIES)}")
    seen = tokens_seen(data, backbone.vocab_size) if vocabulary == "seen" else None
    sizes = {"vocab_size": backbone.vocab_size, "block_length": config.data.block_length}
    if (hidden_size := getattr(backbone, "hidden_size", None)) is not None:
        sizes["hidden_size"] = hidden_size
    if seen is not None:
        sizes["vocab_size"] = len(seen) + 1
    if hidden_size is not None and (stop := config.circuit.get("stop")) is not None:
        sizes["stop_token"] = _stop_token(stop, backbone)

    def made(**more: int) -> Circuit:
        circuit: Circuit = make(config.circuit, Circuit, "circuit", **{**sizes, **more})
        return circuit if seen is None else Seen(circuit, backbone.vocab_size, seen)

    limit = config.circuit.get("max_parameters")
    if limit is not None and "circuit.max_parameters" not in without_effect(config):
        each = config.circuit.get("roles") or 1  # states come in groups of one size
        least = (config.circuit.get("stop_states") or 0) + (config.circuit.get("open_states") or 1)
        sizes["num_states"] = each * most_states(lambda states: made(num_states=each * states), limit, least)
    return made()


def _stop_token(text: str, backbone: Backbone) -> int:
    if backbone.tokenizer is None:
        raise UserError(f"circuit.stop={text} needs a backbone with a tokenizer")
    tokens = backbone.tokenizer.encode(text, add_special_tokens=False)
    if len(tokens) != 1:
        raise UserError(f"circuit.stop={text} is {len(tokens)} tokens of this backbone, and must be one")
    token: int = tokens[0]
    if token in backbone.tokenizer.all_special_ids:
        raise UserError(f"circuit.stop={text} is no word of this backbone's, or one that it keeps for itself")
    return token


def tokens_seen(data: TaskDataModule, vocab_size: int) -> list[int]:
    """The token ids of all training responses, EOS among them, ascending."""
    dataset = data.dataset("train")
    found = {token for index in range(len(dataset)) for token in dataset[index].response}
    return sorted(token for token in found if token < vocab_size)


def make(config: DictConfig, kind: type, name: str, **available: Any) -> Any:
    """Calls a config's `_target_` with its own keys that the target takes, and what it takes of the available parts.

    Args:
        config: of one object.
        kind: what it must be.
        name: of the config, for messages.
        available: parts made before.

    Raises:
        UserError: the target cannot be found, lacks a part, or makes something else.
    """
    values = {str(k): v for k, v in OmegaConf.to_container(config, resolve=True).items()}  # type: ignore[union-attr]  # a mapping
    path = values.pop("_target_")
    named = path.rpartition(".")[2]
    try:
        target = get_object(path) if inspect.isclass(get_object(path)) else get_method(path)
    except (ImportError, ValueError) as error:
        raise UserError(f"{name}._target_={path} cannot be imported: {error}") from None
    try:
        takes = inspect.signature(target).parameters
    except ValueError:
        raise UserError(f"{name}._target_={path} makes no {kind.__name__}") from None
    parts = {key: value for key, value in available.items() if key in takes}
    if (
        "hidden_size" in takes
        and takes["hidden_size"].default is inspect.Parameter.empty
        and not ("hidden_size" in parts or "hidden_size" in values)
    ):
        raise UserError(f"{name}: {named} reads hidden states, and this backbone gives none: use circuit=hmm")
    lacking = [key for key, p in takes.items() if p.default is p.empty and key not in parts and key not in values]
    if lacking:
        raise UserError(f"{name}: {named} needs a {lacking[0]}, and this experiment has none")
    try:
        made = target(**{**{key: value for key, value in values.items() if key in takes}, **parts})
    except UserError as error:
        if str(error).partition("=")[0] in values:  # it names its own option
            raise UserError(f"{name}.{error}") from None
        raise
    if not isinstance(made, kind):
        raise UserError(f"{name}._target_={path} makes a {type(made).__name__}, not a {kind.__name__}")
    return made


def make_task(config: DictConfig) -> Task:
    """The task, with what its data choice has beside the common options."""
    own = {key: value for key, value in config.data.items() if key not in DATA_OPTIONS}
    task: Task = make(config.data.task, Task, "data.task", **own)
    return task


def make_data(config: DictConfig, task: Task, backbone: Backbone) -> TaskDataModule:
    """The data module for a backbone's tokenizer."""
    kept = DATA_OPTIONS - {"task", "templates"}
    options = {key: value for key, value in config.data.items() if key in kept}
    templates = {str(name): _template(str(name), options) for name, options in config.data.templates.items()}
    return TaskDataModule(
        task, backbone.tokenizer, backbone.eos_token_ids[0], seed=config.seed, templates=templates, **options
    )


def _template(name: str, options: Any) -> Template:
    """A template as the configuration has it, whose keys no schema has seen."""
    try:
        checked = OmegaConf.merge(OmegaConf.structured(TemplateOptions), options)
        return Template(**checked)  # type: ignore[arg-type]  # a mapping with the names of the fields
    except (OmegaConfBaseException, TypeError, ValueError) as error:
        raise UserError(
            f"data.templates.{name}={options}: a template has text, system and chat; {str(error).splitlines()[0]}"
        ) from None


def decoding_config(config: DictConfig, decoder: DictConfig, circuit: Circuit | None) -> DecodingConfig:
    """One decoder of an evaluation, with the options that all share.

    Raises:
        UserError: γ and τ are to be those that were chosen for the circuit, and none were.
    """
    options = {**config.decoding, "suppress_tokens": tuple(config.decoding.suppress_tokens)}
    tuned = options.pop("tuned")
    if decoder.commit is not None:
        options.update(commit=decoder.commit, commit_bound=decoder.commit_bound)
    elif decoder.commit_bound is not None:
        raise UserError(f"commit_bound={decoder.commit_bound} of {decoder.proposal} needs a commit beside it")
    if decoder.commit_reads is not None:
        options["commit_reads"] = decoder.commit_reads
    try:
        decoding = DecodingConfig(
            proposal=decoder.proposal,
            remasking=decoder.remasking,
            eos=decoder.eos,
            max_new_tokens=config.data.max_response_tokens,
            steps=config.data.max_response_tokens,
            block_length=config.data.block_length,
            **options,
        )
    except UserError as error:
        if decoder.commit is None and decoder.commit_reads is None:
            raise
        own = str(error).replace("decoding.commit", "commit")  # they are the decoder's own
        raise UserError(f"decoder {decoder.proposal}: {own}") from None
    if not tuned or decoder.proposal == "factorized":
        return decoding
    chosen = tuned_for(circuit, decoding)
    if chosen is None:
        raise UserError(f"decoding.tuned=true, and nothing was chosen for {label_of(decoding)}: run codd tune first")
    return decoding.replace(**chosen)


def _callbacks(config: DictConfig, circuit: Circuit | None, data: TaskDataModule) -> list[L.Callback]:
    callbacks = []
    for name, callback in callbacks_of(config):
        decoders = [decoding_config(config, decoder, circuit) for decoder in callback.get("decoders", [])]
        parts = {"decoders": decoders, "data": data, "seed": config.seed}
        callbacks.append(make(callback, L.Callback, f"callbacks.{name}", **parts))
    return callbacks


def make_strategy(config: DictConfig) -> StrategyRecipe:
    """How the ranks of a run share its work."""
    recipe: StrategyRecipe = make(config.trainer.strategy, StrategyRecipe, "trainer.strategy")
    return recipe


def _texts(config: DictConfig, task: Task) -> Iterator[str]:
    """Prompts and responses of the training split, for a tokenizer that is learnt from them."""
    split = SPLITS[0]
    size = task.size(split) or config.data.train_size
    for index in range(min(size, config.backbone.get("tokenizer_examples", 0))):
        example = task.example(split, index, config.seed)
        yield example.prompt
        yield example.response
