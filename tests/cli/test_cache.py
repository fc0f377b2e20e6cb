"""`codd cache` and training from what it wrote, as a user runs them."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from codd_lightning.backbones import files_digest, load_backbone
from codd_lightning.backbones.loading import BUNDLED
from codd_lightning.circuits import HMM, save_circuit
from codd_lightning.cli.build import build
from codd_lightning.cli.cache_settings import cache_settings
from codd_lightning.cli.compose import compose_experiment
from codd_lightning.cli.main import main
from codd_lightning.cli.processes import Processes
from codd_lightning.errors import UserError

pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")

SMALL = [
    "circuit.num_states=8",
    "data.train_size=96",
    "data.validation_size=16",
    "data.test_size=16",
    "data.batch_size=16",
    "trainer.max_epochs=2",
    "trainer.progress_bar=false",
    "trainer.num_threads=1",
    "trainer.log_every_n_steps=1",
    "evaluation.examples=4",
    "evaluation.likelihood_examples=16",
    "evaluation.steps_per_block=[4]",
    "cache.dtype=float32",
    "cache.shard_batches=2",
]
ALONE = "callbacks=none"


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small cache of the smoke experiment, dense and in float32."""
    folder = tmp_path_factory.mktemp("caches") / "smoke"
    assert main(["cache", "smoke", *SMALL, f"cache.path={folder}"]) == 0
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def curve(folder: Path, tag: str) -> list[float]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    return [event.value for event in events.Scalars(tag)]


@pytest.mark.parametrize("optimizer", ["adamw", "em"])
def test_training_from_the_cache_is_training_on_the_fly(optimizer: str, cache: Path, tmp_path: Path) -> None:
    overrides = [*SMALL, ALONE, f"optimizer={optimizer}", "optimizer.lr=0.1"]
    assert main(["train", "smoke", *overrides, f"output_dir={tmp_path / 'fly'}"]) == 0
    assert main(["train", "smoke", *overrides, f"output_dir={tmp_path / 'cached'}", f"cache.path={cache}"]) == 0
    for tag in ("train/loss", "validation/nll_coupled", "validation/nll_factorized"):
        fly, cached = (curve(tmp_path / name, tag) for name in ("fly", "cached"))
        assert len(fly) == (12 if tag == "train/loss" else 2)
        assert cached == pytest.approx(fly, rel=1e-4)
    circuits = [load_file(tmp_path / name / "circuit" / "model.safetensors") for name in ("fly", "cached")]
    for name, value in circuits[0].items():
        torch.testing.assert_close(circuits[1][name], value, rtol=1e-3, atol=1e-3)
    rows = [json.loads((tmp_path / name / "results.json").read_text())["metrics"] for name in ("fly", "cached")]
    assert [row["name"] for row in rows[0]] == [row["name"] for row in rows[1]]
    manifests = [json.loads((tmp_path / name / "manifest.json").read_text()) for name in ("fly", "cached")]
    assert manifests[0]["fingerprints"] == manifests[1]["fingerprints"]


def test_no_weights_are_in_memory_while_a_circuit_learns_from_a_cache(
    cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import lightning as L

    from codd_lightning.cli import build as building

    loaded: list[str] = []
    make = building.make

    def counting(config: Any, kind: type, name: str, **available: Any) -> Any:
        made = make(config, kind, name, **available)
        if name == "backbone":
            loaded.append({parameter.device.type for parameter in made.parameters()}.pop())
        return made

    fit = L.Trainer.fit

    def fitting(trainer: L.Trainer, module: Any, *args: Any, **options: Any) -> None:
        assert loaded == ["meta"]
        assert module.backbone is None
        fit(trainer, module, *args, **options)
        assert loaded == ["meta"]

    monkeypatch.setattr(building, "make", counting)
    monkeypatch.setattr(L.Trainer, "fit", fitting)
    assert main(["train", "smoke", *SMALL, ALONE, f"cache.path={cache}", f"output_dir={tmp_path / 'run'}"]) == 0
    assert loaded == ["meta", "cpu"]


def test_what_was_trained_from_a_cache_is_measured_without_it(
    cache: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    given = ["smoke", *SMALL, ALONE, f"cache.path={cache}", f"output_dir={tmp_path / 'run'}"]
    assert main(["train", *given]) == 0
    assert main(["evaluate", *given]) == 0
    assert "no effect here: the backbone is asked itself" in capfd.readouterr().out


def test_a_backbone_without_weights_knows_its_tokens() -> None:
    whole, meta = load_backbone("codd_tiny"), load_backbone("codd_tiny", device="meta")
    for name in ("vocab_size", "mask_token_id", "eos_token_ids", "shifted"):
        assert getattr(meta, name) == getattr(whole, name)
    assert meta.tokenizer("Ada has 3")["input_ids"] == whole.tokenizer("Ada has 3")["input_ids"]  # type: ignore[misc]
    assert {name: value.shape for name, value in meta.state_dict().items()} == {
        name: value.shape for name, value in whole.state_dict().items()
    }


LISTS = [
    "data.train_size=48",
    "data.validation_size=16",
    "data.test_size=16",
    "data.batch_size=16",
    "circuit.num_states=4",
    "trainer.max_epochs=2",
    "trainer.progress_bar=false",
    "evaluation.examples=4",
    "evaluation.likelihood_examples=16",
]


@pytest.mark.parametrize("backbone", ["llama_scratch", "exact"])
def test_backbones_without_files_are_cached_too(backbone: str, tmp_path: Path) -> None:
    given = [*LISTS, f"backbone={backbone}", f"cache.path={tmp_path / 'cache'}", "evaluation.barrier_examples=0"]
    assert main(["cache", "known_barrier", *given]) == 0
    assert main(["train", "known_barrier", *given, f"output_dir={tmp_path / 'run'}"]) == 0


def test_hidden_states_of_a_backbone_without_any_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "cache"
    assert main(["cache", "known_barrier", *LISTS, "cache.hidden=float16", f"cache.path={folder}"]) == 2
    assert "cache.hidden=float16: this backbone gives no hidden states" in capsys.readouterr().err
    assert not folder.exists()


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (
            ["objective.canvas=uniform"],
            "objective.canvas is uniform here and mixed in the cache: add objective.canvas=",
        ),
        (["objective.fully_masked=0.5"], "objective.fully_masked is 0.5 here and 0.2 in the cache"),
        (["seed=7"], "seed is 7 here and 0 in the cache"),
        (["data.train_size=80"], "data.train_size is 80 here and 96 in the cache"),
        (["data.task.max_steps=2"], "data.task.max_steps is 2 here and 3 in the cache"),
        (["data.block_length=16"], "data.block_length is 16 here and 32 in the cache"),
        (["backbone.dtype=bfloat16"], "backbone.dtype is bfloat16 here and auto in the cache"),
        (["trainer.precision=bf16-mixed"], "trainer.precision is bf16-mixed here and 32-true in the cache"),
        (["cache.dtype=float16"], "cache.dtype is float16 here and float32 in the cache: add cache.dtype=float32"),
        (["objective.evidence_top_k=8"], "cache.top_k is 8 here and null in the cache: add cache.top_k=null"),
        (["cache.hidden=float16"], "cache.hidden is float16 here and null in the cache"),
        (["trainer.max_epochs=5"], "cache.epochs is 5 here and 2 in the cache: add cache.epochs=2"),
        (["initialization.kind=hidden_states"], "initialization (kind=hidden_states"),
        (["objective=likelihood"], "objective=likelihood learns from clean text"),
        (["circuit=none", "objective=masked_diffusion"], "circuit=none"),
    ],
)
def test_a_cache_that_does_not_fit_is_refused_by_the_name_of_what_differs(
    overrides: list[str], words: str, cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    command = ["train", "smoke", *SMALL, ALONE, *overrides, f"cache.path={cache}", f"output_dir={folder}"]
    assert main(command) == 2
    message = capsys.readouterr().err
    assert message.startswith("codd: ")
    assert message.count("\n") == 1
    assert words in message
    assert not folder.exists()


def test_callbacks_that_decode_are_refused(cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "smoke", *SMALL, f"cache.path={cache}", f"output_dir={tmp_path / 'run'}"]) == 2
    assert "callbacks.few_step_reasoning asks the backbone" in capsys.readouterr().err


def test_a_circuit_of_another_vocabulary_is_refused(
    cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_circuit(HMM(2, 7, 32), tmp_path / "circuit")
    command = ["train", "smoke", *SMALL, ALONE, f"cache.path={cache}", f"output_dir={tmp_path / 'run'}"]
    assert main([*command, "circuit=pretrained", f"circuit.path_or_repo={tmp_path / 'circuit'}"]) == 2
    assert "the circuit is over 7 tokens" in capsys.readouterr().err


def test_another_backbone_of_the_same_shape_is_told_by_its_files(
    cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "backbone"
    shutil.copytree(BUNDLED["codd_tiny"], folder)
    assert files_digest(folder) == files_digest("codd_tiny")
    weights = load_file(folder / "model.safetensors")
    name = max(weights, key=lambda key: weights[key].numel())
    save_file({**weights, name: weights[name] * 1.01}, folder / "model.safetensors", {"format": "pt"})
    command = ["train", "smoke", *SMALL, ALONE, f"cache.path={cache}", f"output_dir={tmp_path / 'run'}"]
    assert main([*command, "backbone=pretrained", f"backbone.path_or_repo={folder}", "backbone.dtype=auto"]) == 2
    assert f"backbone files is {files_digest(folder)} here" in capsys.readouterr().err
    (folder / "model.safetensors").write_bytes(b"\xff" * 20)
    with pytest.raises(UserError, match="not a whole safetensors"):
        files_digest(folder)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["cache.top_k=100000"], "cache.top_k=100000 is more than the vocabulary"),
        (["cache.top_k=0"], "cache.top_k=0 must be at least 1"),
        (["cache.epochs=0"], "cache.epochs=0 must be at least 1"),
        (["cache.dtype=int8"], "cache.dtype=int8 is not one of"),
        (["cache.hidden=float32"], "cache.hidden=float32 is not one of"),
        (["objective=likelihood"], "needs no evidence cache"),
        (["circuit=none", "objective=masked_diffusion"], "circuit=none"),
        (["cache.paths=x"], "did you mean cache.path"),
        (["data.batch_size=1000"], "data.batch_size=1000"),
    ],
)
def test_what_the_user_can_mend_is_one_line(
    overrides: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "cache"
    assert main(["cache", "smoke", *SMALL, f"cache.path={folder}", *overrides]) == 2
    message = capsys.readouterr().err
    assert message.startswith("codd: ")
    assert message.count("\n") == 1
    assert words in message
    assert not list(folder.glob("*.arrow"))


def test_grids_are_no_business_of_a_cache(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["cache", "smoke", "-m", "seed=1,2"])
    assert stop.value.code == 2
    assert "-m" in capsys.readouterr().err


def test_help_lists_the_keys(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cache", "smoke", "--help"]) == 0
    assert "  cache.top_k=null" in capsys.readouterr().out


def test_the_folder_is_named_by_what_is_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["cache", "smoke", *SMALL]) == 0
    said = capsys.readouterr().out
    assert main(["cache", "smoke", *SMALL, "cache.top_k=4"]) == 0
    folders = sorted((tmp_path / "outputs" / "cache").iterdir())
    assert len(folders) == 2
    assert all(folder.name.startswith("smoke-") for folder in folders)
    command = next(line for line in said.splitlines() if "codd train smoke" in line)
    assert "callbacks=none" in command
    assert any(command.endswith(f"cache.path=outputs/cache/{folder.name}") for folder in folders)


@pytest.mark.parametrize(
    ("option", "tells_caches_apart"),
    [("backbone.device_map=auto", False), ("data.batch_size=8", False), ("backbone.dtype=bfloat16", True)],
)
def test_a_cache_is_told_by_what_decides_its_numbers(option: str, tells_caches_apart: bool) -> None:
    one, other = (compose_experiment("smoke", [*SMALL, *more]) for more in ([], [option]))
    data = build(one).data
    assert (cache_settings(one, data) != cache_settings(other, data)) == tells_caches_apart


def start(folder: Path, **environment: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "codd_lightning.cli.main", "cache", "smoke", *SMALL, f"cache.path={folder}"]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, **environment}
    )


@pytest.mark.parametrize("names", [("RANK", "WORLD_SIZE")])
def test_processes_that_share_the_work_write_the_files_of_one(
    names: tuple[str, str], cache: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "cache"
    running = [start(folder, **{names[0]: str(rank), names[1]: "2"}) for rank in range(2)]
    for process in running:
        _, errors = process.communicate(timeout=240)
        assert process.returncode == 0, errors
    assert contents(folder) == contents(cache)


def test_devices_start_processes_of_their_own_and_more_than_cores_are_warned_of(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    folder = tmp_path / "cache"
    assert main(["cache", "smoke", *SMALL, f"cache.path={folder}", "trainer.devices=2"]) == 0
    assert contents(folder) == contents(cache)
    assert "warning: trainer.devices=2 is more than this machine's cores (1)" in capsys.readouterr().err


def test_a_killed_command_goes_on_and_ends_with_the_same_files(cache: Path, tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    process = start(folder)
    deadline = time.monotonic() + 200
    while len(list(folder.glob("train-*.arrow"))) < 1:
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (folder / "index.json").exists()
    kept = {file.name: file.stat().st_ino for file in folder.glob("*.arrow")}
    assert main(["cache", "smoke", *SMALL, f"cache.path={folder}"]) == 0
    assert contents(folder) == contents(cache)
    assert {name: (folder / name).stat().st_ino for name in kept} == kept


def test_the_environment_names_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID"):
        monkeypatch.delenv(name, raising=False)
    assert Processes.of_environment() == Processes(rank=0, local_rank=0, size=1)
    monkeypatch.setenv("SLURM_PROCID", "5")
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "8")
    monkeypatch.setenv("SLURM_LOCALID", "1")
    assert Processes.of_environment() == Processes(rank=5, local_rank=1, size=8)
    monkeypatch.setenv("RANK", "2")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match=r"RANK=2, LOCAL_RANK=0, WORLD_SIZE=2"):
        Processes.of_environment()
