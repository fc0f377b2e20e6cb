"""The "reference" preset against what the original decoding loops wrote (fixtures/README.md)."""

import functools
import json
from pathlib import Path
from typing import Any

import pytest

from codd_lightning.backbones import Backbone, load_backbone
from codd_lightning.decoding import DecodingConfig, generate

FIXTURES = Path(__file__).parents[1] / "fixtures"
DREAM_NAMES = {"maskgit_plus": "low_confidence", "entropy": "entropy", "margin": "margin"}


def recorded(name: str) -> dict[str, Any]:
    return json.loads((FIXTURES / name / "reference_decoding.json").read_text())


def cases(name: str) -> list[Any]:
    found = recorded(name)["cases"]
    return [pytest.param(case, id="-".join(str(v) for v in case.values() if not isinstance(v, list))) for case in found]


@functools.cache
def backbone(name: str) -> Backbone:
    return load_backbone(FIXTURES / name, attention="eager")


@pytest.mark.parametrize("case", cases("llada-tiny"))
def test_reference_preset_writes_what_the_loop_of_llada_wrote(case: dict[str, Any]) -> None:
    config = DecodingConfig.preset(
        "reference",
        steps=case["num_steps"],
        max_new_tokens=case["gen_length"],
        block_length=case["block_length"],
        cfg_scale=case["cfg_scale"],
        remasking=case["remasking"],
    )
    written = generate(backbone("llada-tiny"), [recorded("llada-tiny")["prompt"]], config)
    assert written.sequences == [case["tokens"]]


@pytest.mark.parametrize("case", cases("dream-tiny"))
def test_reference_preset_writes_what_the_loop_of_dream_wrote(case: dict[str, Any]) -> None:
    config = DecodingConfig.preset(
        "reference",
        steps=case["steps"],
        max_new_tokens=case["gen_length"],
        block_length=case.get("block_length", 32),
        paradigm=case["paradigm"],
        remasking=DREAM_NAMES[case["alg"]],
    )
    written = generate(backbone("dream-tiny"), [recorded("dream-tiny")["prompt"]], config)
    assert written.sequences == [case["tokens"]]


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 1, 0], [0], [1], [2]], ids=str)
@pytest.mark.parametrize("case", cases("a2d-qwen3-tiny"))
def test_reference_preset_writes_what_the_sampler_of_dllm_wrote_in_any_batch(
    case: dict[str, Any], order: list[int]
) -> None:
    names = ("steps", "max_new_tokens", "block_length", "cfg_scale", "remasking")
    config = DecodingConfig.preset("reference", **{name: case[name] for name in names})
    prompts = recorded("a2d-qwen3-tiny")["prompts"]
    written = generate(backbone("a2d-qwen3-tiny"), [prompts[i] for i in order], config)
    assert written.sequences == [case["sequences"][i] for i in order]


def test_every_recorded_decoding_is_compared() -> None:
    counts = {name: len(cases(name)) for name in ("llada-tiny", "dream-tiny", "a2d-qwen3-tiny")}
    assert counts == {"llada-tiny": 33, "dream-tiny": 10, "a2d-qwen3-tiny": 6}


def test_reference_preset_gives_every_block_the_whole_quotient_of_steps() -> None:
    config = DecodingConfig.preset("reference", steps=7, max_new_tokens=16, block_length=8)
    written = generate(backbone("llada-tiny"), [recorded("llada-tiny")["prompt"]], config)
    assert written.nfe == [2 * (7 // 2)]
