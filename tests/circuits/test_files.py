import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from codd_lightning.circuits import CIRCUITS, HMM, CircuitError, load_circuit, save_circuit

from .enumeration import tuples
from .strategies import random_hmm


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a whole circuit of 3 states, 4 tokens and 5 positions."""
    save_circuit(random_hmm(3, 4, 5), tmp_path / "circuit")
    return tmp_path / "circuit"


@pytest.fixture
def no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError(f"asked the Hub for {args}")

    monkeypatch.setattr("huggingface_hub.snapshot_download", refuse)


# There and back


@pytest.mark.parametrize("homogeneous", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_saved_circuit_comes_back_bit_for_bit(tmp_path: Path, homogeneous: bool, dtype: torch.dtype) -> None:
    hmm = random_hmm(3, 4, 5, homogeneous).to(dtype)
    save_circuit(hmm, tmp_path / "not" / "there" / "yet")
    again = load_circuit(tmp_path / "not" / "there" / "yet")
    assert isinstance(again, HMM)
    assert again.config() == hmm.config()
    for name, value in hmm.state_dict().items():
        assert again.state_dict()[name].dtype == dtype
        assert torch.equal(again.state_dict()[name], value)
    tokens = torch.from_numpy(tuples(4, 5))
    assert torch.equal(again.log_prob(tokens), hmm.log_prob(tokens))


def test_zero_probabilities_survive_a_save(tmp_path: Path) -> None:
    initial, transition = torch.tensor([1.0, 0.0]), torch.tensor([[0.5, 0.5], [0.0, 1.0]])
    emission = torch.tensor([[0.4, 0.6, 0.0], [0.0, 0.0, 1.0]])
    save_circuit(HMM.from_probabilities(initial, transition, emission, block_length=3), tmp_path)
    again = load_circuit(tmp_path)
    assert isinstance(again, HMM)
    for found, expected in zip(again.probabilities(), (initial, transition, emission), strict=True):
        torch.testing.assert_close(found, expected)


def test_a_folder_holds_two_files_and_says_what_it_is(folder: Path) -> None:
    assert sorted(p.name for p in folder.iterdir()) == ["config.json", "model.safetensors"]
    config = json.loads((folder / "config.json").read_text())
    sizes = {"num_states": 3, "vocab_size": 4, "block_length": 5, "homogeneous": True}
    assert config == {"circuit": "hmm", **sizes}


def test_a_save_replaces_an_older_circuit_and_leaves_other_files_alone(folder: Path) -> None:
    (folder / "README.md").write_text("mine")
    larger = random_hmm(4, 6, 7)
    save_circuit(larger, str(folder))
    assert load_circuit(str(folder)).config() == larger.config()
    assert (folder / "README.md").read_text() == "mine"


def test_circuits_are_known_by_the_name_of_their_structure() -> None:
    assert CIRCUITS["hmm"] is HMM
    assert HMM.structure == "hmm"


# Interrupted


@pytest.mark.parametrize("replaced", [0, 1])
@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_an_interrupted_save_leaves_the_old_circuit_whole_and_nothing_else(
    folder: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException], replaced: int
) -> None:
    """However many files had been put in place when it was interrupted."""
    old, calls, replace = load_circuit(folder), [], os.replace

    def interrupted(source: Path, target: Path) -> None:
        calls.append(target)
        if len(calls) == replaced + 1:
            raise error("no space left")
        replace(source, target)

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(error):
        save_circuit(random_hmm(4, 6, 7), folder)
    monkeypatch.undo()
    assert sorted(p.name for p in folder.iterdir()) == ["config.json", "model.safetensors"]
    again = load_circuit(folder)
    for name, value in old.state_dict().items():
        assert torch.equal(again.state_dict()[name], value)


def test_a_save_that_cannot_write_leaves_the_old_circuit_whole_and_nothing_else(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object, **kwargs: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="no space left"):
        save_circuit(random_hmm(4, 6, 7), folder)
    assert sorted(p.name for p in folder.iterdir()) == ["config.json", "model.safetensors"]
    assert load_circuit(folder).config()["num_states"] == 3


# What is no circuit


def truncate(folder: Path) -> None:
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[: len(content) // 2])


def empty(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"")


def pickled(folder: Path) -> None:
    torch.save(random_hmm(3, 4, 5).state_dict(), folder / "model.safetensors")


def other_weights(folder: Path) -> None:
    save_circuit(random_hmm(7, 4, 5), folder.parent / "other")
    os.replace(folder.parent / "other" / "model.safetensors", folder / "model.safetensors")


def further_weights(folder: Path) -> None:
    weights = random_hmm(3, 4, 5).state_dict()
    save_file({**weights, "stray": torch.zeros(1)}, folder / "model.safetensors")


def missing_weights(folder: Path) -> None:
    weights = random_hmm(3, 4, 5).state_dict()
    save_file({"initial_logits": weights["initial_logits"]}, folder / "model.safetensors")


def whole_numbers(folder: Path) -> None:
    weights = {name: value.long() for name, value in random_hmm(3, 4, 5).state_dict().items()}
    save_file(weights, folder / "model.safetensors")


@pytest.mark.parametrize(
    "spoil", [truncate, empty, pickled, other_weights, further_weights, missing_weights, whole_numbers]
)
def test_spoilt_weights_are_refused_by_the_name_of_their_file(folder: Path, spoil: Callable[[Path], None]) -> None:
    spoil(folder)
    with pytest.raises(CircuitError, match=r"model\.safetensors") as caught:
        load_circuit(folder)
    assert str(folder) in str(caught.value)


@pytest.mark.parametrize(
    "config",
    [
        b"",
        b'{"circuit": "hmm", ',
        b"\xff\xfe not text",
        b"[1, 2]",
        b'"hmm"',
        b"[" * 100_000,
        b"{}",
        b'{"circuit": "tree"}',
        b'{"circuit": ["hmm"]}',
        b'{"model_type": "llama", "hidden_size": 64}',
        b'{"circuit": "hmm"}',
        b'{"circuit": "hmm", "num_states": 3, "vocab_size": 4, "block_length": 5, "heads": 2}',
        b'{"circuit": "hmm", "num_states": 0, "vocab_size": 4, "block_length": 5}',
        b'{"circuit": "hmm", "num_states": "3", "vocab_size": 4, "block_length": 5}',
        b'{"circuit": "hmm", "num_states": 3.5, "vocab_size": 4, "block_length": 5}',
        b'{"circuit": "hmm", "num_states": 3, "vocab_size": 5, "block_length": 5}',
        b'{"circuit": "hmm", "num_states": 1000000000, "vocab_size": 4, "block_length": 5}',
    ],
    ids=lambda config: config[:60].decode(errors="replace"),
)
def test_a_foreign_config_is_refused_by_the_name_of_its_file(folder: Path, config: bytes) -> None:
    (folder / "config.json").write_bytes(config)
    with pytest.raises(CircuitError, match=r"config\.json") as caught:
        load_circuit(folder)
    assert str(folder) in str(caught.value)


def test_an_unknown_structure_is_refused_with_the_known_ones(folder: Path) -> None:
    (folder / "config.json").write_text('{"circuit": "oracle"}')
    with pytest.raises(CircuitError, match=r"circuit 'oracle' is not one of .*hmm"):
        load_circuit(folder)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(CircuitError, match=name) as caught:
        load_circuit(folder)
    assert str(folder) in str(caught.value)


def test_a_file_in_place_of_a_folder_is_refused(folder: Path) -> None:
    with pytest.raises(CircuitError, match="is a file; a circuit is a folder"):
        load_circuit(folder / "config.json")


@pytest.mark.usefixtures("no_hub")
@pytest.mark.parametrize("name", ["nowhere", "./nowhere", "../nowhere", "~/nowhere", "a/b/c", "/nowhere"])
def test_a_path_that_is_not_there_is_refused_without_asking_the_hub(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CircuitError, match=f"there is no circuit at {re.escape(name)}"):
        load_circuit(name)


def test_a_hub_id_is_asked_for_the_files_of_a_circuit_only(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def download(repo: str, allow_patterns: list[str]) -> str:
        asked.append((repo, sorted(allow_patterns)))
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert load_circuit("someone/some-circuit").config()["num_states"] == 3
    assert asked == [("someone/some-circuit", ["*.jpc", "config.json", "model.safetensors"])]


def test_a_hub_that_does_not_answer_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*args: object, **kwargs: object) -> None:
        raise OSError("no route to host\nmany lines")

    monkeypatch.setattr("huggingface_hub.snapshot_download", offline)
    with pytest.raises(CircuitError, match="the Hub did not give someone/some-circuit") as caught:
        load_circuit("someone/some-circuit")
    assert "\n" not in str(caught.value)


def test_a_bundled_name_is_a_name_and_a_path_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save_circuit(HMM(3, 5, 4), "codd_tiny_one_step")
    assert load_circuit("codd_tiny_one_step").num_states == 336
    for here in ("./codd_tiny_one_step", Path("codd_tiny_one_step"), tmp_path / "codd_tiny_one_step"):
        assert load_circuit(here).num_states == 3
