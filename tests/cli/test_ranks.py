"""The command on two ranks: what they train together, and how they end."""

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.testing import assert_close

from codd_lightning.circuits import load_circuit
from codd_lightning.cli.main import main

TINY = [
    "circuit.num_states=8",
    "data.train_size=40",
    "data.batch_size=8",
    "data.validation_size=8",
    "data.test_size=8",
    "trainer.max_epochs=2",
    "trainer.progress_bar=false",
    "trainer.num_threads=1",
    "trainer.checkpoint_every_n_steps=2",
    "callbacks=none",
    "optimizer.warmup_steps=0",
    "evaluation.examples=0",
    "evaluation.likelihood_examples=8",
]
ZERO_3 = ["trainer=deepspeed_zero3", "trainer.strategy.persistent_elements=0"]  # tiny tensors are split too
STRATEGIES = {
    "ddp": ["trainer=ddp"],
    "fsdp2": ["trainer=fsdp2"],
    "zero2": ["trainer=deepspeed_zero2"],
    "zero3": ZERO_3,
}
MORE = {
    "zero1": ["trainer=deepspeed_zero1"],
    "zero2_offload": ["trainer=deepspeed_zero2_offload"],
    "zero3_offload": ["trainer=deepspeed_zero3_offload", "trainer.strategy.persistent_elements=0"],
}
BACKBONE = [
    "smoke",
    "backbone.dtype=float32",
    "circuit=none",
    "objective=masked_diffusion",
    "evaluation.decoders=[]",
    "optimizer.lr=1e-4",
]

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning"),
    pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="two ranks need two cores"),
]


def command(folder: Path | None, *arguments: str) -> list[str]:
    if not arguments or "=" in arguments[0]:
        arguments = ("smoke", "backbone.dtype=float32", *arguments)
    place = [] if folder is None else [f"output_dir={folder}"]
    experiment, *overrides = arguments
    return [sys.executable, "-m", "codd_lightning.cli.main", "train", experiment, *TINY, *place, *overrides]


def train(folder: Path | None, *arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(folder, *arguments), capture_output=True, text=True, check=False, timeout=300, cwd=cwd
    )


def train_two(folder: Path, *arguments: str) -> None:
    done = train(folder, *arguments, "trainer.accelerator=cpu")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


def rows_of(folder: Path) -> list[dict[str, Any]]:
    rows = json.loads((folder / "results.json").read_text())["metrics"]
    return [row for row in rows if row["name"] != "training_seconds"]


def losses(folder: Path) -> list[float]:
    """Validation's, after every epoch."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = EventAccumulator(str(folder / "tensorboard"))
    board.Reload()
    tag = next(tag for tag in board.Tags()["scalars"] if tag.startswith("validation/nll") and tag.count("/") == 1)
    return [event.value for event in board.Scalars(tag)]


def assert_same_training(folder: Path, alone: Path) -> None:
    """The tables and losses of one process, up to rounding that Adam's division makes larger."""
    assert_close(losses(folder), losses(alone), atol=1e-4, rtol=1e-4)
    for path in alone.glob("*/model.safetensors"):
        ours, theirs = load_file(folder / path.relative_to(alone)), load_file(path)
        assert ours.keys() == theirs.keys()
        for name, table in theirs.items():
            one, other = (
                (value.softmax(1 if "emission" in name else -1) for value in (ours[name], table))
                if "logits" in name
                else (ours[name], table)
            )
            assert_close(one, other, atol=1e-3, rtol=0, msg=lambda text, name=name: f"{name}: {text}")


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of a single process."""
    folder = tmp_path_factory.mktemp("runs") / "alone"
    assert main(command(folder)[3:]) == 0
    return folder


@pytest.mark.parametrize("strategy", [*STRATEGIES, *(pytest.param(name, marks=pytest.mark.slow) for name in MORE)])
def test_two_ranks_train_and_export_what_one_process_does(strategy: str, alone: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    train_two(folder, *{**STRATEGIES, **MORE}[strategy])
    assert_same_training(folder, alone)
    assert len((folder / "log.txt").read_text().split("smoke →")) == 2
    assert len(list((folder / "tensorboard").glob("events.*"))) == 1
    for ours, theirs in zip(rows_of(folder), rows_of(alone), strict=True):
        assert ours["value"] == pytest.approx(theirs["value"], abs=1e-3)
    exported = tmp_path / "exported"
    assert main(["export", str(folder / "checkpoints" / "best.ckpt"), str(exported)]) == 0
    whole = load_circuit(folder / "circuit").state_dict()
    for name, value in load_circuit(exported).state_dict().items():
        assert torch.equal(value, whole[name])


@pytest.mark.slow
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_backbone_trained_by_two_ranks_is_exported_whole(strategy: str, tmp_path: Path) -> None:
    alone = train(tmp_path / "alone", *BACKBONE)
    assert alone.returncode == 0, alone.stderr
    train_two(tmp_path / "two", *BACKBONE, *STRATEGIES[strategy])
    assert_same_training(tmp_path / "two", tmp_path / "alone")


@pytest.mark.slow
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_two_ranks_that_were_killed_go_on_exactly(strategy: str, tmp_path: Path) -> None:
    longer = [*STRATEGIES[strategy], "trainer.accelerator=cpu", "trainer.max_epochs=12"]
    train_two(tmp_path / "whole", *longer)
    killed = tmp_path / "killed"
    with started(killed, *longer) as process:
        wait_for(killed / "checkpoints" / "previous.ckpt", process)
        process.kill()
    time.sleep(1.0)  # its ranks notice
    assert not (killed / "results.json").exists()
    train_two(killed, *longer)
    assert json.loads((killed / "manifest.json").read_text())["resumed"][0]["step"] >= 2
    ours, theirs = (load_file(folder / "circuit" / "model.safetensors") for folder in (killed, tmp_path / "whole"))
    for name, value in theirs.items():
        assert torch.equal(ours[name], value), name


@contextmanager
def started(folder: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A run in a session of its own, killed at the end whatever happens here."""
    with subprocess.Popen(
        command(folder, *arguments),
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def wait_for(path: Path, process: subprocess.Popen[Any]) -> None:
    deadline = time.monotonic() + 120
    while not path.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert process.poll() is None, "it ended before"


def ranks_of(process: subprocess.Popen[Any]) -> list[int]:
    """Processes that were started by one, in order."""
    listed = subprocess.run(
        ["ps", "-ww", "-o", "pid=,args=", "--ppid", str(process.pid)], capture_output=True, text=True, check=True
    )
    return sorted(int(line.split()[0]) for line in listed.stdout.splitlines() if "spawn_main" in line)


def alive(pid: int) -> bool:
    try:
        return "zombie" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


@pytest.mark.skipif(shutil.which("ps") is None or not Path("/proc/self").exists(), reason="looks at Linux' processes")
@pytest.mark.parametrize("how", ["a rank is killed", pytest.param("Ctrl-C", marks=pytest.mark.slow)])
def test_what_ends_one_rank_ends_all_in_one_line(how: str, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    endless = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.max_epochs=10000"]
    with started(folder, *endless) as process:
        wait_for(folder / "checkpoints" / "previous.ckpt", process)
        ranks = ranks_of(process)
        assert len(ranks) == 2
        if how == "Ctrl-C":
            os.killpg(process.pid, signal.SIGINT)
        else:
            os.kill(ranks[1], signal.SIGKILL)
        _, error = process.communicate(timeout=60)
    assert process.returncode == (130 if how == "Ctrl-C" else 1)
    assert error.count("\n") == 1, error
    assert ("to continue" if how == "Ctrl-C" else "rank 1 was ended by SIGKILL") in error
    assert not [pid for pid in ranks if alive(pid)]


@pytest.mark.slow
def test_ranks_end_with_the_command_that_started_them(tmp_path: Path) -> None:
    endless = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.max_epochs=10000"]
    with started(tmp_path / "run", *endless) as process:
        wait_for(tmp_path / "run" / "checkpoints" / "last.ckpt", process)
        ranks = ranks_of(process)
        process.kill()
    deadline = time.monotonic() + 20
    while any(map(alive, ranks)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not [pid for pid in ranks if alive(pid)]


@pytest.mark.slow
def test_two_ranks_agree_on_a_new_folder_and_an_error_of_theirs_is_one_line(tmp_path: Path) -> None:
    done = train(None, "trainer.devices=2", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.glob("outputs/smoke/*/results.json"))) == 1
    folder = next(tmp_path.glob("outputs/smoke/*"))
    done = train(folder, "trainer.devices=2", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("codd: ")
    assert "finished run" in done.stderr
    assert done.stderr.count("\n") == 1
    done = train(tmp_path / "other", "trainer.devices=2", "backbone.path_or_repo=./nowhere", cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["trainer.devices=2", "data.batch_size=33"], "data.batch_size=33"),
        (["trainer.num_nodes=2"], "trainer.num_nodes=2 needs srun or torchrun"),
        (["trainer.accelerator=tpu"], "trainer.accelerator=tpu"),
        (["trainer=deepspeed_zero2", "optimizer=em"], "ExpectationMaximization needs them whole"),
        (["trainer=fsdp2", "optimizer=anemone"], "trainer=ddp"),
        (["trainer=deepspeed_zero2", "trainer.strategy.offload_parameters=true"], "needs stage 3"),
        (["trainer=deepspeed_zero2", "trainer.precision=bf16-mixed"], "trainer.precision=bf16-mixed"),
        (["trainer=deepspeed_zero3"], "callbacks.few_step_reasoning"),
        (["trainer.strategy=null"], "trainer.strategy is missing"),
    ],
)
def test_what_ranks_could_only_fail_of_is_refused_before_they_start(
    overrides: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "smoke", f"output_dir={tmp_path / 'run'}", *overrides]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_more_gpus_than_there_are_and_a_missing_deepspeed_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(torch.cuda, "device_count", lambda: 1)
        assert main(["train", "smoke", "trainer=ddp", "data.batch_size=64"]) == 2
    assert "trainer.devices=2 is more than the 1 GPUs" in capsys.readouterr().err
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["train", "smoke", "trainer=deepspeed_zero2", "callbacks=none"]) == 2
    assert "codd-lightning[deepspeed]" in capsys.readouterr().err


def test_a_run_of_another_world_is_not_continued(
    alone: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(alone, tmp_path / "run")
    (tmp_path / "run" / "results.json").unlink()
    capsys.readouterr()
    done = train(tmp_path / "run", "trainer.devices=2")
    assert done.returncode == 2
    assert "trainer.devices is 1 there, 2 here" in done.stderr


class Harmful:
    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("harm",))


def test_nothing_in_a_sharded_checkpoint_is_unpickled(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    shards = tmp_path / "last.ckpt" / "checkpoint"
    shards.mkdir(parents=True)
    (shards.parent / "latest").write_text("checkpoint")
    torch.save({"module": {}, "harm": Harmful()}, shards / "mp_rank_00_model_states.pt")
    torch.save({"harm": Harmful()}, shards / "zero_pp_rank_0_mp_rank_00_optim_states.pt")
    pickle.loads(pickle.dumps(Harmful()))
    assert "harm" in capfd.readouterr().out
    assert main(["export", str(shards.parent), str(tmp_path / "out")]) == 2
    streams = capfd.readouterr()
    assert "harm\n" not in streams.out
    assert "cannot be read" in streams.err


def test_the_private_name_of_deepspeed_that_is_replaced_is_still_there() -> None:
    code = "import deepspeed.comm, sys; assert callable(sys.modules['deepspeed.comm.torch'].build_shm_op)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
