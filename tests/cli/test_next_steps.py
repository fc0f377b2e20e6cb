"""What a run says can be typed next."""

import shlex
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from codd_lightning.circuits import HMM
from codd_lightning.cli.next_steps import _show, decoding_options
from codd_lightning.decoding import DecodingConfig

OWN: Any = {"max_new_tokens": 96, "block_length": 32, "remasking": "left_to_right"}
DECODERS = [
    DecodingConfig(proposal="factorized", eos="last", **OWN),
    DecodingConfig(eos="last", tau=0.5, **OWN),
    DecodingConfig(proposal="map", eos="last", **OWN),
    DecodingConfig(proposal="map", eos="any", **OWN),
]
EXPERIMENT: Any = SimpleNamespace(decoders=DECODERS, circuit=HMM(2, 3, 32))


def measured(decoder: str, steps: int, value: float, low: float, **labels: Any) -> dict[str, Any]:
    own = {"name": "strict_accuracy", "split": "test", "decoder": decoder, "remasking": "left_to_right", "eos": "last"}
    return {**own, "steps_per_block": steps, "value": value, "low": low, **labels}


@pytest.mark.parametrize(
    ("rows", "options"),
    [
        ([measured("factorized", 32, 0.9, 0.8)], ""),
        ([measured("any_order", 1, 0.0, 0.0), measured("any_order", 4, 0.0, 0.0)], ""),
        (
            [measured("any_order", 1, 0.5, 0.4), measured("any_order", 2, 0.85, 0.7), measured("map", 4, 0.9, 0.8)],
            "--steps 6 --remasking left_to_right --max-new-tokens 96 --tau 0.5",
        ),
        (
            [
                measured("any_order", 4, 0.85, 0.7),
                measured("map", 4, 0.9, 0.8, eos="any"),
                measured("map", 8, 0.9, 0.8),
            ],
            "--steps 12 --proposal map --remasking left_to_right --eos any --max-new-tokens 96",
        ),
        (
            [
                measured("any_order", 1, 0.9, 0.8, split="validation"),
                measured("any_order", 32, 0.9, 0.8, commit="joint"),
            ],
            "",
        ),
    ],
)
def test_generate_is_shown_as_what_was_best_in_the_fewest_steps(rows: list[dict[str, Any]], options: str) -> None:
    assert decoding_options(rows, EXPERIMENT) == options.split()


def test_a_command_is_shown_as_a_shell_reads_it(caplog: pytest.LogCaptureFixture) -> None:
    words = ["generate", "Ben's 3 coins cost $4.", "--circuit", Path("my runs") / "circuit"]
    with caplog.at_level("INFO", logger="codd_lightning"):
        _show("codd", *words)
        _show("codd", "report", Path("-runs"))
    first, second = (shlex.split(message) for message in caplog.messages)
    assert first[1:] == [str(word) for word in words]
    assert second[1:] == ["report", "./-runs"]
