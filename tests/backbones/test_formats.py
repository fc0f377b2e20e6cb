"""Formats whose checkpoints are written here, by transformers: the same logits, aligned, with the right tokens."""

import json
from inspect import signature
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from hydra.utils import get_method
from tokenizers import Tokenizer, models
from torch import Tensor
from torch.testing import assert_close
from transformers import PreTrainedTokenizerFast

from codd_lightning.backbones import Backbone, load_backbone
from codd_lightning.cli.compose import compose_experiment
from codd_lightning.errors import UserError

from .fixtures import edit_json

SIZES = {"vocab_size": 40, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
DECODER = {**SIZES, "num_key_value_heads": 1, "initializer_range": 0.3, "is_causal": False}
ENCODER = {**SIZES, "local_attention": 8, "initializer_cutoff_factor": 6.0, "initializer_range": 0.3, "pad_token_id": 0}
ENCODER |= {"bos_token_id": 1, "cls_token_id": 1, "eos_token_id": 2, "sep_token_id": 2}
QWEN_TOKENS = ["<|im_end|>", "<|endoftext|>"]
# model_type: class, configuration, further entries of config.json, special tokens (the mask first), shift
FORMATS: dict[str, tuple[str, dict[str, Any], dict[str, Any], list[str], bool]] = {
    "a2d-qwen3": ("Qwen3ForCausalLM", {**DECODER, "head_dim": 16}, {}, ["<|mask|>", *QWEN_TOKENS], False),
    "a2d-qwen2": ("Qwen2ForCausalLM", DECODER, {}, ["<|mask|>", *QWEN_TOKENS], False),
    "a2d-llama": ("LlamaForCausalLM", DECODER, {}, ["<|mask|>", "<|eot_id|>", "<|end_of_text|>"], False),
    "sdar": (
        "Qwen3ForCausalLM",
        {**DECODER, "head_dim": 16},
        {"mask_token_id": 30, "attn_implementation": "flex_attention", "block_size": 4, "fuse_cross_entropy": True},
        ["<|MASK|>", *QWEN_TOKENS],
        False,
    ),
    "Fast_dLLM_Qwen": ("Qwen2ForCausalLM", DECODER, {"bd_size": 32}, ["|<MASK>|", *QWEN_TOKENS], True),
    "modernbert": ("ModernBertForMaskedLM", ENCODER, {}, ["[MASK]", "[SEP]"], False),
}
every_format = pytest.mark.parametrize("model_type", FORMATS)


def written(model_type: str, folder: Path) -> Any:
    """Writes a random checkpoint with its tokenizer; the model as transformers has it."""
    name, sizes, changes, special, _ = FORMATS[model_type]
    model_class = getattr(transformers, name)
    torch.manual_seed(0)
    model = model_class(model_class.config_class(**sizes)).eval()
    model.save_pretrained(folder)
    edit_json(folder / "config.json", lambda config: config.update({"model_type": model_type, **changes}))
    vocabulary = {f"word{i}": i for i in range(30)} | {token: 30 + i for i, token in enumerate(special)}
    mask = {"mask_token": special[0]} if special[0] == "[MASK]" else {}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(vocabulary, unk_token="word0")),
        additional_special_tokens=special,
        **mask,
    )
    tokenizer.save_pretrained(folder)
    return model


def logits_of(model: Any, canvas: Tensor, mask: Tensor) -> Tensor:
    places = (mask.cumsum(-1) - 1).clamp_min(0)
    found: Tensor = model(input_ids=canvas, attention_mask=mask, position_ids=places).logits
    return found


def load(folder: Path, **options: Any) -> Backbone:
    return load_backbone(folder, **options).requires_grad_(False)


@every_format
@torch.no_grad()
def test_logits_are_those_of_transformers_and_tokens_those_of_the_format(model_type: str, tmp_path: Path) -> None:
    model = written(model_type, tmp_path)
    backbone = load(tmp_path)
    special = FORMATS[model_type][3]
    assert backbone.mask_token_id == 30
    assert set(range(31, 30 + len(special))) <= set(backbone.eos_token_ids)
    canvas = torch.randint(30, (2, 24), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(canvas)
    mask[1, :5] = 0
    expected = logits_of(model, canvas, mask)
    if FORMATS[model_type][4]:
        expected = torch.cat([expected[:, :1], expected[:, :-1]], 1)
        mask[1, 5] = 0  # whose logits come from itself
    found = backbone(canvas, mask.clone().index_fill(1, torch.tensor([5]), 1))
    assert_close(found[mask.bool()], expected[mask.bool()], atol=1e-5, rtol=1e-5)
    asked = backbone.predict(canvas, torch.tensor([7, 20]))
    assert_close(asked.logits, backbone(canvas)[:, [7, 20]], atol=1e-5, rtol=1e-5)
    assert asked.hidden is not None
    assert asked.hidden.shape == (2, 2, 32)


@pytest.mark.parametrize("model_type", ["a2d-qwen3", "sdar", "Fast_dLLM_Qwen"])
@torch.no_grad()
def test_a_block_sees_itself_and_what_is_before_it(model_type: str, tmp_path: Path) -> None:
    written(model_type, tmp_path)
    backbone = load(tmp_path, attention="block_causal", block_length=4)
    canvas = torch.randint(30, (1, 12), generator=torch.Generator().manual_seed(0))
    before = backbone(canvas)
    for column in range(12):
        changed = canvas.clone()
        changed[0, column] = (changed[0, column] + 1) % 30
        moved = (backbone(changed) - before).abs().amax(-1)[0] > 1e-6
        first = column // 4 * 4 + (backbone.lookback if column >= 4 else 0)  # a row comes from the token before it
        assert moved[first:].all()
        assert not moved[: column // 4 * 4].any()


def test_a_masked_language_model_keeps_nothing_and_sees_everything(tmp_path: Path) -> None:
    written("modernbert", tmp_path)
    assert not load(tmp_path).remembers
    with pytest.raises(UserError, match=r"attention=block_causal: .* masked language model"):
        load(tmp_path, attention="block_causal", block_length=4)


@pytest.mark.parametrize(
    ("name", "block_length"),
    [
        ("qwen3_06b_mdlm", None),
        ("qwen3_06b_bd3lm", 32),
        ("qwen25_coder_05b_mdlm", None),
        ("modernbert_base_chat", None),
        ("modernbert_large_chat", None),
        ("sdar_17b", 4),
        ("fast_dllm_v2_15b", 32),
    ],
)
def test_shipped_choices_are_what_the_loader_takes(name: str, block_length: int | None, tmp_path: Path) -> None:
    options = dict(compose_experiment("smoke", [f"backbone={name}"]).backbone)
    assert get_method(options.pop("_target_")) is load_backbone
    assert options["block_length"] == block_length
    assert str(options.pop("path_or_repo")).count("/") == 1
    written("a2d-qwen3", tmp_path)
    assert load(tmp_path, **options).block_length == block_length
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "a2d-qwen3"


@pytest.mark.parametrize("name", ["llada_8b", "llada_15_8b", "dream_7b", "dream_coder_7b", "diffucoder_7b"])
def test_choices_for_a_gpu_are_options_of_the_loader(name: str) -> None:
    options = dict(compose_experiment("smoke", [f"backbone={name}"]).backbone)
    assert get_method(options.pop("_target_")) is load_backbone
    assert options.keys() == signature(load_backbone).parameters.keys()
    assert options["device"] == "cuda"
