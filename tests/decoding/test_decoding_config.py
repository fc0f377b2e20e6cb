"""Options are checked where they are given, and errors name option and value."""

from typing import Any

import pytest

from codd_lightning.decoding import DecodingConfig
from codd_lightning.errors import UserError


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"paradigm": "blocks"}, ["paradigm", "blocks"]),
        ({"proposal": "any-order"}, ["proposal", "any-order", "any_order"]),
        ({"remasking": "confidence"}, ["remasking", "confidence", "low_confidence"]),
        ({"eos": "first"}, ["eos", "first"]),
        ({"steps": 0}, ["steps", "0"]),
        ({"max_new_tokens": 0}, ["max_new_tokens", "0"]),
        ({"block_length": -1}, ["block_length", "-1"]),
        ({"gamma": 1.1}, ["gamma", "1.1"]),
        ({"gamma": -0.1}, ["gamma", "-0.1"]),
        ({"gamma": float("nan")}, ["gamma", "nan"]),
        ({"tau": -1.0}, ["tau", "-1.0"]),
        ({"tau": float("nan")}, ["tau", "nan"]),
        ({"temperature": -0.5}, ["temperature", "-0.5"]),
        ({"cfg_scale": -2.0}, ["cfg_scale", "-2.0"]),
        ({"top_k": 0}, ["top_k", "0"]),
        ({"evidence_top_k": 0}, ["evidence_top_k", "0"]),
        ({"top_p": 0.0}, ["top_p", "0.0"]),
        ({"top_p": 1.5}, ["top_p", "1.5"]),
        ({"steps": 2, "max_new_tokens": 96, "block_length": 32}, ["steps", "2", "3"]),
        ({"steps": 1, "max_new_tokens": 33, "block_length": 32}, ["steps", "1", "2"]),
        ({"tau": 1e-40}, ["tau", "1e-40"]),
        ({"temperature": float("inf")}, ["temperature", "inf"]),
        ({"schedule": "odd"}, ["schedule", "odd", "times"]),
        ({"commit": "all"}, ["commit", "all", "entropy_bound"]),
        ({"commit": "threshold"}, ["commit", "threshold", "commit_bound"]),
        ({"commit_bound": 0.5}, ["commit_bound", "0.5", "no effect"]),
        ({"commit_reads": "circuit"}, ["commit_reads", "circuit", "no effect", "quota"]),
        ({"commit": "factor", "commit_bound": -1.0}, ["commit_bound", "-1.0"]),
        ({"commit": "factor", "commit_bound": 1.0, "schedule": "times"}, ["schedule", "times", "no effect"]),
        (
            {"commit": "factor", "commit_bound": 1.0, "commit_reads": "circuit", "paradigm": "full"},
            ["commit_reads", "circuit"],
        ),
        ({"gamma_share": "line"}, ["gamma_share", "line"]),
        ({"commit": "threshold", "commit_bound": 5.0}, ["commit_bound", "5.0", "probability"]),
        (
            {"commit": "factor", "commit_bound": 1.0, "commit_reads": "circuit", "proposal": "factorized"},
            ["commit_reads", "circuit", "no effect"],
        ),
        ({"commit": "joint", "commit_bound": "0.5"}, ["commit_bound", "'0.5'"]),
        ({"commit": "joint", "commit_bound": 0.5, "remasking": "random"}, ["commit", "joint", "remasking=random"]),
        (
            {"commit": "joint", "commit_bound": 0.5, "commit_reads": "circuit", "proposal": "latent_reference"},
            ["proposal", "latent_reference", "commit_reads=backbone"],
        ),
        ({"steps": None}, ["steps", "None"]),
        ({"suppress_tokens": "12"}, ["suppress_tokens", "'12'"]),
        ({"cache": "all"}, ["cache", "all", "dual"]),
        ({"cache": "dual", "paradigm": "full"}, ["cache", "dual", "block"]),
    ],
)
def test_a_bad_option_is_refused_in_one_line_that_names_it_and_its_value(
    options: dict[str, Any], words: list[str]
) -> None:
    with pytest.raises(UserError) as refusal:
        DecodingConfig(**options)
    message = str(refusal.value)
    assert "\n" not in message
    assert message.startswith(f"decoding.{words[0]}={words[1]}")
    assert all(word in message for word in words)


def test_a_bad_option_of_a_changed_config_is_refused_too() -> None:
    with pytest.raises(UserError, match=r"decoding\.steps=1 "):
        DecodingConfig(steps=2, max_new_tokens=64, block_length=32).replace(steps=1)


def test_an_unknown_preset_is_refused() -> None:
    with pytest.raises(UserError, match=r"'referenz'.*reference"):
        DecodingConfig.preset("referenz")


def test_overrides_win_over_a_preset() -> None:
    config = DecodingConfig.preset("reference", remasking="margin", steps=8)
    assert (config.remasking, config.steps, config.proposal, config.stop_at_eos) == ("margin", 8, "factorized", False)


@pytest.mark.parametrize(("tokens", "length", "blocks"), [(64, 32, 2), (65, 32, 3), (1, 32, 1), (32, 1, 32)])
def test_blocks_cover_the_response(tokens: int, length: int, blocks: int) -> None:
    assert DecodingConfig(steps=64, max_new_tokens=tokens, block_length=length).blocks == blocks
