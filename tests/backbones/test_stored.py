"""Weights that stay in their files until somebody reads them: the same ones, and the same faults."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from codd_lightning.backbones import Backbone, load_backbone, save_backbone
from codd_lightning.errors import UserError

from .fixtures import FIXTURES, NAMES, copy_of, edit_json, tiny
from .test_formats import FORMATS, written

CPU = torch.device("cpu")


def read_whole(backbone: Backbone) -> None:
    """Gives a backbone all its weights."""
    assert backbone.stored is not None
    for name, place in backbone.stored.items():
        owner, _, own = name.rpartition(".")
        dtype = backbone.model.get_parameter(name).dtype
        setattr(backbone.model.get_submodule(owner), own, nn.Parameter(place.read(dtype, CPU)))
    backbone.model.tie_weights()


@pytest.mark.parametrize("name", [*NAMES, *FORMATS, "codd_tiny"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_is_read_later_is_what_is_loaded_at_once(name: str, dtype: str, tmp_path: Path) -> None:
    if name in FORMATS:
        written(name, tmp_path)
    path: Any = tmp_path if name in FORMATS else name if name == "codd_tiny" else FIXTURES / name
    whole, later = load_backbone(path, dtype=dtype), load_backbone(path, dtype=dtype, device="meta")
    assert all(value.is_meta for value in later.parameters())
    read_whole(later)
    for kind in ("named_parameters", "named_buffers"):
        ours, theirs = dict(getattr(later, kind)()), dict(getattr(whole, kind)())
        assert ours.keys() == theirs.keys()
        for key, value in theirs.items():
            assert ours[key].dtype == value.dtype
            assert torch.equal(ours[key], value), key
    ids = torch.arange(24)[None]
    with torch.no_grad():
        assert torch.equal(later(ids), whole(ids))
    assert later.model.config._attn_implementation == whole.model.config._attn_implementation


def test_rows_are_read_alone_and_in_memory_of_their_own() -> None:
    backbone = load_backbone(FIXTURES / "llada-tiny", device="meta")
    assert backbone.stored is not None
    whole = load_file(FIXTURES / "llada-tiny" / "model.safetensors")["model.transformer.wte.weight"]
    rows = backbone.stored["model.embed_tokens.weight"].read(torch.float32, CPU, slice(3, 7))
    assert torch.equal(rows, whole[3:7])
    assert rows.untyped_storage().nbytes() == rows.numel() * 4


def test_a_tensor_is_found_in_whichever_file_has_it(llada: Path) -> None:
    weights = load_file(llada / "model.safetensors")
    names, half = sorted(weights), len(weights) // 2
    shards = {"model-00001-of-00002.safetensors": names[:half], "model-00002-of-00002.safetensors": names[half:]}
    for file, members in shards.items():
        save_file({name: weights[name] for name in members}, llada / file)
    index = {"weight_map": {name: file for file, some in shards.items() for name in some}}
    (llada / "model.safetensors.index.json").write_text(json.dumps(index))
    (llada / "model.safetensors").unlink()
    backbone = load_backbone(llada, device="meta")
    assert backbone.stored is not None
    assert {place.file.name for place in backbone.stored.values()} == set(shards)
    (llada / "model-00002-of-00002.safetensors").unlink()
    refused(llada, "the weights cannot be read")
    for content in ("{", "[]", '{"weight_map": 1}', "{}"):
        (llada / "model.safetensors.index.json").write_text(content)
        refused(llada, "is no index of weights")
    (llada / "model.safetensors.index.json").unlink()
    refused(llada, "holds neither model.safetensors nor model.safetensors.index.json")


@pytest.mark.parametrize("stored", ["embed_tokens", "lm_head"])
def test_a_tied_tensor_may_be_stored_by_either_name(stored: str, tmp_path: Path) -> None:
    save_backbone(tiny(), tmp_path)
    weights = {name: value.clone() for name, value in load_file(tmp_path / "model.safetensors").items()}
    table = weights.pop("model.embed_tokens.weight")
    weights["lm_head.weight" if stored == "lm_head" else "model.embed_tokens.weight"] = table
    save_file(weights, tmp_path / "model.safetensors")
    backbone = load_backbone(tmp_path, device="meta")
    assert backbone.stored is not None
    assert torch.equal(backbone.stored["model.embed_tokens.weight"].read(torch.float32, CPU), table)


# What cannot be read


def refused(folder: Path, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        load_backbone(folder, device="meta")
    assert "\n" not in str(caught.value)


def rewrite(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("model.transformer.blocks.1.ff_proj.weight"), r"missing keys: .*layers\.1\.mlp\.gate_proj"),
        (lambda w: w.update({"model.extra.weight": torch.zeros(3)}), r"unexpected keys: .*model\.extra\.weight"),
        (lambda w: w.update({"model.transformer.ln_f.weight": torch.zeros(3)}), r"mismatched keys: .*model\.norm"),
    ],
)
def test_other_weights_than_the_models_are_refused_before_any_are_read(
    change: Callable[[dict[str, torch.Tensor]], object], message: str, llada: Path
) -> None:
    rewrite(llada, change)
    refused(llada, message)


def test_weights_of_another_size_than_the_config_are_refused(llada: Path) -> None:
    edit_json(llada / "config.json", lambda config: config.update(mlp_hidden_size=48))
    refused(llada, "mismatched keys")


@pytest.mark.parametrize("spoil", [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b"\x00" * 64, lambda b: b[:12]])
def test_corrupt_weights_are_refused(llada: Path, spoil: Callable[[bytes], bytes]) -> None:
    path = llada / "model.safetensors"
    path.write_bytes(spoil(path.read_bytes()))
    refused(llada, "the weights cannot be read")


def test_a_file_that_goes_away_before_it_is_read_is_one_line(tmp_path: Path) -> None:
    folder = copy_of("llada-tiny", tmp_path)
    backbone = load_backbone(folder, device="meta")
    (folder / "model.safetensors").unlink()
    assert backbone.stored is not None
    with pytest.raises(UserError, match="the weights cannot be read"):
        next(iter(backbone.stored.values())).read(torch.float32, CPU)
