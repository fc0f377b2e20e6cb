"""Ways to decode all problems of an evaluation, each with the labels of its rows."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from codd_lightning.circuits import Circuit
from codd_lightning.decoding import DecodingConfig


@dataclass(frozen=True)
class Setting:
    """One way to decode all problems.

    Attributes:
        config: of the decoder, with its steps.
        labels: what tells the setting's rows and samples from others.
        template: of the prompts; None for the one of training.
    """

    config: DecodingConfig
    labels: dict[str, Any]
    template: str | None = None


def settings_of(
    decoder: DecodingConfig,
    steps_per_block: Sequence[int],
    circuit: Circuit | None,
    template: str | None = None,
    **labels: Any,
) -> list[Setting]:
    """A decoder at each step budget; one whose commit rule decides itself once, at the most steps that it may take.

    Further labels tell it from the same one with other options.
    """
    budgets = steps_per_block if decoder.commit == "quota" else [decoder.block_length]
    return [_setting(decoder, budget, circuit, template, **labels) for budget in budgets]


def _setting(
    decoder: DecodingConfig, steps_per_block: int, circuit: Circuit | None, template: str | None = None, **labels: Any
) -> Setting:
    named = {
        "decoder": decoder.proposal or ("factorized" if circuit is None else "any_order"),
        "remasking": decoder.remasking,
        "eos": decoder.eos,
        **rule_labels(decoder),
        **labels,
        "steps_per_block": steps_per_block,
    }
    if template is not None:
        named = {"template": template, **named}
    return Setting(decoder.replace(steps=steps_per_block * decoder.blocks), named, template)


def rule_labels(decoder: DecodingConfig) -> dict[str, Any]:
    """The labels of a commit rule; none of a quota."""
    names = ("commit", "commit_bound", "commit_reads")
    return {} if decoder.commit == "quota" else {name: getattr(decoder, name) for name in names}
