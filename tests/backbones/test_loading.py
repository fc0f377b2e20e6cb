import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.testing import assert_close

from codd_lightning.backbones import Backbone, load_backbone, save_backbone
from codd_lightning.backbones.families import FAMILIES
from codd_lightning.errors import UserError

from .fixtures import FIXTURES, NAMES, copy_of, edit_json, loaded, reference, tiny

CLOSE = {"atol": 1e-4, "rtol": 0.0}


@pytest.fixture
def no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError(f"asked the Hub for {args}")

    monkeypatch.setattr("huggingface_hub.snapshot_download", refuse)


# The original checkpoints


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_logits_are_those_of_the_original_code(name: str, attention: str) -> None:
    expected = reference(name)
    found = loaded(name, attention)(expected["input_ids"])
    assert_close(found, expected["logits"], **CLOSE)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_logits_under_an_attention_mask_are_those_of_the_original_code(attention: str) -> None:
    expected = reference("a2d-qwen3-tiny")
    mask = expected["attention_mask"].bool()
    assert 0 < mask.sum() < mask.numel()
    found = loaded("a2d-qwen3-tiny", attention)(expected["input_ids"], expected["attention_mask"])
    assert_close(found[mask], expected["masked_logits"][mask], **CLOSE)


def test_dreams_logits_come_one_position_late_from_its_model() -> None:
    expected = reference("dream-tiny")
    backbone = loaded("dream-tiny")
    assert_close(backbone.model(expected["input_ids"]).logits, expected["unshifted_logits"], **CLOSE)
    assert_close(backbone(expected["input_ids"])[:, 1:], expected["unshifted_logits"][:, :-1], **CLOSE)


@pytest.mark.parametrize(
    ("name", "mask_token_id", "eos_token_ids", "vocab_size"),
    [("llada-tiny", 199, [1], 224), ("dream-tiny", 199, [], 200), ("a2d-qwen3-tiny", 198, [1], 200)],
)
def test_special_tokens_are_those_of_the_configuration(
    name: str, mask_token_id: int, eos_token_ids: list[int], vocab_size: int
) -> None:
    backbone = loaded(name)
    assert backbone.mask_token_id == mask_token_id
    assert backbone.eos_token_ids == eos_token_ids
    assert backbone.vocab_size == vocab_size
    assert backbone.tokenizer is None


@pytest.mark.parametrize("name", NAMES)
def test_a_loaded_backbone_is_ready_to_predict(name: str) -> None:
    backbone = loaded(name)
    assert not any(module.training for module in backbone.modules())


@pytest.mark.parametrize("name", NAMES)
def test_sharded_weights_give_the_same_logits(name: str, tmp_path: Path) -> None:
    folder = copy_of(name, tmp_path)
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names, half = sorted(weights), len(weights) // 2
    shards = {"model-00001-of-00002.safetensors": names[:half], "model-00002-of-00002.safetensors": names[half:]}
    for file, members in shards.items():
        save_file({n: weights[n] for n in members}, folder / file, metadata={"format": "pt"})
    index = {"metadata": {"total_size": 0}, "weight_map": {n: file for file, some in shards.items() for n in some}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    expected = reference(name)
    with torch.no_grad():
        assert_close(load_backbone(folder)(expected["input_ids"]), expected["logits"], **CLOSE)
    (folder / "model-00002-of-00002.safetensors").unlink()
    refused(folder, "the weights cannot be read.*model-00002-of-00002")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", ["bfloat16", torch.bfloat16, "float64"])
def test_weights_load_in_the_precision_asked_for(name: str, dtype: str | torch.dtype) -> None:
    backbone, expected = load_backbone(FIXTURES / name, dtype=dtype), reference(name)
    wanted = torch.float64 if dtype == "float64" else torch.bfloat16
    assert {p.dtype for p in backbone.parameters()} == {wanted}
    with torch.no_grad():
        found = backbone(expected["input_ids"])
    assert found.dtype == wanted
    error = (found.double() - expected["logits"]).norm() / expected["logits"].norm()
    assert error < (1e-5 if wanted == torch.float64 else 0.03)


@pytest.mark.parametrize(("native", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
def test_the_automatic_precision_is_what_the_processor_multiplies_natively(
    native: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cpu._is_avx512_bf16_supported", lambda: native)
    backbone = load_backbone(FIXTURES / "llada-tiny", dtype="auto")
    assert {p.dtype for p in backbone.parameters()} == {dtype}


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_the_kernel_is_the_one_asked_for(attention: str) -> None:
    assert loaded("llada-tiny", attention).model.config._attn_implementation == attention


def test_paths_may_be_text() -> None:
    assert load_backbone(str(FIXTURES / "llada-tiny")).mask_token_id == 199


def test_the_dtype_of_the_process_is_left_as_it_was() -> None:
    load_backbone(FIXTURES / "llada-tiny", dtype="bfloat16")
    assert torch.get_default_dtype() == torch.float32


def test_loading_leaves_the_console_alone(capfd: pytest.CaptureFixture[str]) -> None:
    load_backbone(FIXTURES / "llada-tiny")
    captured = capfd.readouterr()
    assert captured.out + captured.err == ""


def test_end_tokens_come_from_both_configuration_files(a2d: Path) -> None:
    edit_json(a2d / "generation_config.json", lambda config: config.update(eos_token_id=[1, 7]))
    assert load_backbone(a2d).eos_token_ids == [1, 7]


# What cannot be loaded


def refused(folder: Path | str, message: str, **arguments: object) -> None:
    with pytest.raises(UserError, match=message) as caught:
        load_backbone(folder, **arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("model_type", ["gpt2", "", None, ["llada"], 3])
def test_an_unknown_model_type_is_refused_with_the_known_ones(llada: Path, model_type: object) -> None:
    edit_json(llada / "config.json", lambda config: config.update(model_type=model_type))
    refused(llada, "model_type .* is not one of .*Dream.*llada")


def test_a_config_without_model_type_is_refused(llada: Path) -> None:
    edit_json(llada / "config.json", lambda config: config.pop("model_type"))
    refused(llada, "model_type None is not one of")


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 100_000])
def test_a_config_that_is_not_json_is_refused(llada: Path, content: bytes) -> None:
    (llada / "config.json").write_bytes(content)
    refused(llada, r"config\.json is not JSON")


def test_a_config_that_is_no_object_is_refused(llada: Path) -> None:
    (llada / "config.json").write_text("[1]")
    refused(llada, r"config\.json must hold a JSON object, not list")


@pytest.mark.parametrize("key", ["d_model", "n_heads", "n_layers", "mlp_hidden_size", "rope_theta"])
def test_a_config_that_lacks_a_size_is_refused_by_its_name(llada: Path, key: str) -> None:
    edit_json(llada / "config.json", lambda config: config.pop(key))
    refused(llada, key)


def test_a_config_with_a_size_of_the_wrong_type_is_refused(llada: Path) -> None:
    edit_json(llada / "config.json", lambda config: config.update(n_layers="two"))
    refused(llada, str(llada))


def test_a_folder_without_config_is_refused(llada: Path) -> None:
    (llada / "config.json").unlink()
    refused(llada, r"holds no config\.json")


def test_a_folder_without_weights_is_refused(llada: Path) -> None:
    (llada / "model.safetensors").unlink()
    refused(llada, "holds no safetensors weights")


def test_pickled_weights_are_no_weights(llada: Path) -> None:
    weights = load_file(llada / "model.safetensors")
    (llada / "model.safetensors").unlink()
    torch.save(weights, llada / "pytorch_model.bin")
    refused(llada, "holds no safetensors weights")


def rewrite(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("name", "weight", "message"),
    [
        ("llada-tiny", "model.transformer.blocks.1.ff_proj.weight", r"missing keys.*layers\.1\.mlp\.gate_proj\.weight"),
        ("llada-tiny", "model.transformer.ff_out.weight", r"missing keys.*lm_head\.weight"),
        ("a2d-qwen3-tiny", "model.layers.0.self_attn.q_norm.weight", r"missing keys.*layers\.0\.self_attn\.q_norm"),
    ],
)
def test_missing_weights_are_named(name: str, weight: str, message: str, tmp_path: Path) -> None:
    folder = copy_of(name, tmp_path)
    rewrite(folder, lambda weights: weights.pop(weight))
    refused(folder, message)


@pytest.mark.parametrize("name", NAMES)
def test_left_over_weights_are_named(name: str, tmp_path: Path) -> None:
    folder = copy_of(name, tmp_path)
    rewrite(folder, lambda weights: weights.update({"model.extra.weight": torch.zeros(3)}))
    refused(folder, r"unexpected keys.*model\.extra\.weight")


def test_weights_of_another_size_than_the_config_are_refused(llada: Path) -> None:
    edit_json(llada / "config.json", lambda config: config.update(mlp_hidden_size=48))
    refused(llada, str(llada))


@pytest.mark.parametrize("spoil", [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b"\x00" * 64, lambda b: b[:12]])
def test_corrupt_weights_are_refused(llada: Path, spoil: Callable[[bytes], bytes]) -> None:
    path = llada / "model.safetensors"
    path.write_bytes(spoil(path.read_bytes()))
    refused(llada, "the weights cannot be read")


def test_a_checkpoint_without_a_mask_token_is_refused(llada: Path) -> None:
    edit_json(llada / "config.json", lambda config: config.pop("mask_token_id"))
    refused(llada, "neither config.json nor the tokenizer names a mask token")


@pytest.mark.parametrize("mask_token_id", [224, -1, 126_336])
def test_a_mask_token_without_an_embedding_is_refused(llada: Path, mask_token_id: int) -> None:
    edit_json(llada / "config.json", lambda config: config.update(mask_token_id=mask_token_id))
    refused(llada, str(mask_token_id))


def test_an_autoregressive_llama_is_refused(tmp_path: Path) -> None:
    save_backbone(tiny(), tmp_path)
    edit_json(tmp_path / "config.json", lambda config: config.pop("is_causal"))
    refused(tmp_path, "autoregressive Llama.*is_causal: false")
    edit_json(tmp_path / "config.json", lambda config: config.update(is_causal=True))
    refused(tmp_path, "autoregressive Llama.*is_causal: false")


@pytest.mark.parametrize("dtype", ["int8", "float", "", torch.int64])
def test_a_precision_that_is_none_is_refused(dtype: str | torch.dtype) -> None:
    refused(FIXTURES / "llada-tiny", "dtype=.*float32", dtype=dtype)


@pytest.mark.parametrize("attention", ["flash", "SDPA", ""])
def test_an_unknown_kernel_is_refused(attention: str) -> None:
    refused(FIXTURES / "llada-tiny", f"attention={attention} is not one of sdpa, eager", attention=attention)


@pytest.mark.usefixtures("no_hub")
@pytest.mark.parametrize("name", ["nowhere", "./nowhere", "../nowhere", "~/nowhere", "a/b/c", "/nowhere"])
def test_a_path_that_is_not_there_is_refused_without_asking_the_hub(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    refused(name, f"there is no backbone folder at {Path(name)}")


@pytest.mark.usefixtures("no_hub")
def test_a_file_in_place_of_a_folder_is_refused(llada: Path) -> None:
    refused(llada / "config.json", "there is no backbone folder at")


@pytest.mark.parametrize("error", [OSError("no route to host\nmany lines"), ConnectionError("no")])
def test_a_hub_that_does_not_answer_is_one_line(error: OSError, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*args: object, **kwargs: object) -> None:
        raise error

    monkeypatch.setattr("huggingface_hub.snapshot_download", offline)
    refused("someone/some-backbone", "the Hub did not give someone/some-backbone")


def test_a_hub_id_is_asked_for_no_code_and_no_pickles(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def download(repo: str, allow_patterns: list[str]) -> str:
        asked.append((repo, allow_patterns))
        return str(FIXTURES / "llada-tiny")

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert load_backbone("someone/some-backbone").mask_token_id == 199
    ((repo, patterns),) = asked
    assert repo == "someone/some-backbone"
    assert "*.safetensors" in patterns
    assert not any(p.endswith((".py", ".bin", ".pt", "*")) for p in patterns)


# Code that comes with a checkpoint


def test_no_code_that_comes_with_a_checkpoint_is_run(llada: Path) -> None:
    code = "raise AssertionError('remote code was run')"
    for name in ("configuration_llada.py", "modeling_llada.py"):
        (llada / name).write_text(code)
    classes = {"AutoConfig": "configuration_llada.LLaDAConfig", "AutoModelForCausalLM": "modeling_llada.LLaDAModelLM"}
    edit_json(llada / "config.json", lambda config: config.update(auto_map=classes))
    assert load_backbone(llada).mask_token_id == 199


# There and back


def same_answers(backbone: Backbone, again: Backbone) -> None:
    ids = torch.randint(backbone.vocab_size, (2, 12), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(again(ids), backbone(ids))
    assert again.mask_token_id == backbone.mask_token_id
    assert again.eos_token_ids == backbone.eos_token_ids
    assert again.vocab_size == backbone.vocab_size


@pytest.mark.parametrize("kind", ["words", "bpe"])
def test_a_new_backbone_comes_back_as_it_was_saved(kind: str, tmp_path: Path) -> None:
    backbone = tiny(tokenizer=kind, vocab_size=300)
    save_backbone(backbone, tmp_path / "not" / "there" / "yet")
    again = load_backbone(tmp_path / "not" / "there" / "yet")
    same_answers(backbone, again)
    text = "Ann has 14 pears ."
    assert again.tokenizer(text)["input_ids"] == backbone.tokenizer(text)["input_ids"]
    assert again.tokenizer.get_vocab() == backbone.tokenizer.get_vocab()
    assert again.tokenizer.decode(again.tokenizer(text)["input_ids"]).replace(" .", ".") == "Ann has 14 pears."


@pytest.mark.parametrize("name", NAMES)
def test_an_original_checkpoint_comes_back_as_it_was_saved(name: str, tmp_path: Path) -> None:
    save_backbone(loaded(name), tmp_path)
    same_answers(loaded(name), load_backbone(tmp_path))


def test_a_saved_backbone_keeps_its_mask_token_where_only_the_tokenizer_names_it(tmp_path: Path) -> None:
    backbone = tiny()
    save_backbone(backbone, tmp_path)
    edit_json(tmp_path / "config.json", lambda config: config.pop("mask_token_id"))
    assert load_backbone(tmp_path).mask_token_id == backbone.mask_token_id == backbone.tokenizer.mask_token_id


def test_a_spoilt_tokenizer_is_refused(tmp_path: Path) -> None:
    save_backbone(tiny(), tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    refused(tmp_path, str(tmp_path))


def test_a_backbone_may_be_saved_over_an_older_one(tmp_path: Path) -> None:
    save_backbone(tiny(seed=1), tmp_path)
    save_backbone(tiny(seed=2), tmp_path)
    same_answers(tiny(seed=2), load_backbone(tmp_path))


def test_families_are_found_by_the_model_type_of_their_config() -> None:
    assert all(FAMILIES[name].model_type == name for name in FAMILIES)
    for name in NAMES:
        assert json.loads((FIXTURES / name / "config.json").read_text())["model_type"] in FAMILIES


def test_a_folder_beats_a_hub_id_of_the_same_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_hub: None
) -> None:
    shutil.copytree(FIXTURES / "llada-tiny", tmp_path / "someone" / "some-backbone")
    monkeypatch.chdir(tmp_path)
    assert load_backbone("someone/some-backbone").mask_token_id == 199
