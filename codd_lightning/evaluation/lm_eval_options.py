"""What lm-eval hands over as options, checked: `--model_args` of the model, and the generation options of a task."""

import dataclasses
import difflib
import re
import warnings
from dataclasses import dataclass, field
from typing import Any, get_type_hints

from codd_lightning.decoding import PROPOSALS, DecodingConfig
from codd_lightning.errors import UserError

# The paper's zero-shot protocol, with the largest of its step budgets.
PROTOCOL: dict[str, Any] = {"max_new_tokens": 512, "block_length": 32, "steps": 256}
LENGTHS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")  # lm-eval's names, in its order
SAMPLING = ("temperature", "top_p", "top_k")
ELSEWHERE = {
    "system": "the system prompt is lm-eval's --system_instruction, beside --apply_chat_template",
    "chat": "chat templates are applied by lm-eval's --apply_chat_template",
    "pretrained": "the model is named by backbone=",
}


@dataclass(frozen=True)
class ModelOptions:
    """`--model_args` of `--model codd`, beside those of the decoder.

    Attributes:
        backbone: "codd_tiny" (bundled), a folder or a Hub id.
        circuit: a circuit's folder (`RUN/circuit` of a run), a Hub id or a .jpc file; None decodes without.
        dtype, attention: of `load_backbone`.
        device: of all; "cuda" is each process's own.
        batch_size: prompts decoded together, or masked canvases scored together.
        seed: of all draws; each request has its own.
        mc_samples: sets of masked tokens that a log-likelihood is estimated from.
        decoding: of the decoder.
    """

    backbone: str = "codd_tiny"
    circuit: str | None = None
    dtype: str = "float32"
    device: str = "cpu"
    attention: str = "sdpa"
    batch_size: int = 1
    seed: int = 0
    mc_samples: int = 128
    decoding: DecodingConfig = field(default_factory=lambda: DecodingConfig(**PROTOCOL))

    @classmethod
    def of_arguments(cls, arguments: dict[str, Any]) -> "ModelOptions":
        """From keys and values, those of the decoder among them.

        Raises:
            UserError: a key is unknown, or a value is of the wrong type or out of its range.
        """
        own = [option.name for option in dataclasses.fields(cls) if option.name != "decoding"]
        decoding = [option.name for option in dataclasses.fields(DecodingConfig) if option.name != "trace"]
        for key in arguments:
            if key not in own and key not in decoding:
                raise UserError(f"model_args: {key} is not an option of --model codd{_mend(key, [*own, *decoding])}")
        values = {key: _typed(key, value, cls if key in own else DecodingConfig) for key, value in arguments.items()}
        for key in ("batch_size", "mc_samples"):
            if values.get(key, 1) < 1:
                raise UserError(f"model_args: {key}={values[key]} must be at least 1")
        if not 0 <= values.get("seed", 0) < 2**63:
            raise UserError(f"model_args: seed={values['seed']} must lie in [0, 2^63)")
        try:
            config = DecodingConfig(**{**PROTOCOL, **{key: values[key] for key in values if key in decoding}})
        except UserError as error:  # it names keys of a config
            raise UserError("model_args: " + re.sub(r"decoding\.(\w+)", r"\1", str(error))) from None
        return cls(**{key: values[key] for key in values if key in own}, decoding=config)


def _mend(key: str, known: list[str]) -> str:
    if key in ELSEWHERE:
        return f": {ELSEWHERE[key]}"
    close = difflib.get_close_matches(key, known, n=1)
    return f"; did you mean {close[0]}?" if close else f": choose from {', '.join(known)}"


def _typed(key: str, value: Any, owner: type) -> Any:
    """A value as lm-eval has read it from text, if it is of the option's type."""
    if key == "suppress_tokens":
        return tuple(value) if isinstance(value, list | tuple) else (value,)
    expected = get_type_hints(owner)[key]
    takes_numbers = isinstance(0.0, expected)
    if isinstance(value, expected | int if takes_numbers else expected) and (
        not isinstance(value, bool) or expected is bool
    ):
        return value
    if isinstance("", expected) and value is not None:  # a folder may be named 2024
        return str(value)
    kind = getattr(expected, "__name__", str(expected))
    raise UserError(f"model_args: {key}={value!r} must be of type {kind}")


def decoder_of(
    options: dict[str, Any], config: DecodingConfig, proposal: str
) -> tuple[DecodingConfig, tuple[str, ...]]:
    """The decoder and the stop strings of a request, from the model's decoder and the request's generation options.

    `max_gen_toks` is rounded up to whole blocks. A request that asks for sampling sets `temperature`, `top_p` and
    `top_k`; one that asks for greedy decoding, as nearly all tasks do, leaves the model's decoder as it is. Options
    without effect warn, once each.

    Args:
        options: of lm-eval's `generation_kwargs`.
        config: of the model.
        proposal: the one that decodes.

    Raises:
        UserError: a value is out of its range.
    """
    options = dict(options)
    until = options.pop("until", None) or []
    stops = (until,) if isinstance(until, str) else tuple(until)
    lengths = [options.pop(name) for name in LENGTHS if options.get(name) is not None]
    temperature = float(options.get("temperature") or 0.0)
    sampled = temperature > 0.0 and options.pop("do_sample", True) is not False
    changes: dict[str, Any] = {}
    if lengths:
        changes["max_new_tokens"] = -(-int(lengths[0]) // config.block_length) * config.block_length
    if sampled:
        changes.update({name: options.pop(name) for name in SAMPLING if options.get(name) is not None})
        if PROPOSALS[proposal].coupled:
            _without_effect(
                f"temperature={temperature:g}", "where the circuit acts: tau of model_args sharpens its draw"
            )
    elif options.pop("do_sample", None) is True:
        _without_effect("do_sample=true", "without a temperature above 0: model_args decide how is sampled")
    elif config.temperature > 0.0 or (config.tau > 0.0 and PROPOSALS[proposal].coupled):
        _without_effect("greedy decoding", "here: temperature and tau of model_args say how is sampled")
    if not sampled:
        options.pop("temperature", None)
    for name, value in options.items():
        _without_effect(f"{name}={value}", "on --model codd")
    try:
        return config.replace(**changes), stops
    except UserError as error:
        raise UserError("gen_kwargs: " + re.sub(r"decoding\.(\w+)", r"\1", str(error))) from None


def _without_effect(option: str, where: str) -> None:
    warnings.warn(f"the task's {option} has no effect {where}", stacklevel=3)
