"""Runs that are stopped and started again end as undisturbed ones do, bit for bit."""

import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from codd_lightning.cli.checkpoint_files import is_whole, read_checkpoint
from codd_lightning.cli.checkpoints import RunCheckpoints
from codd_lightning.cli.main import main
from codd_lightning.modules import CircuitModule

pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")

TINY = [
    "data.train_size=40",
    "data.batch_size=8",
    "data.validation_size=8",
    "data.test_size=8",
    "trainer.max_epochs=3",
    "trainer.progress_bar=false",
    "trainer.num_threads=1",
    "trainer.checkpoint_every_n_steps=2",
    "callbacks=none",
    "evaluation.examples=0",
    "evaluation.likelihood_examples=0",
]
POLICY = ["diffu_grpo", "objective.group_size=2", "objective.inner_updates=2", "objective.steps_per_block=2"]
# Cases that differ in what a checkpoint must hold, or in how the trainer goes on.
CASES = {
    "adamw": ["smoke", "optimizer=adamw"],
    "anemone": ["smoke", "optimizer=anemone"],
    "em by likelihood": ["smoke", "optimizer=em", "objective=likelihood"],
    "workers": ["smoke", "data.num_workers=1"],
    "steps": ["smoke", "trainer.max_steps=13"],
    "seldom validated": ["smoke", "trainer.check_val_every_n_epoch=2"],
    "contextual": ["smoke", "circuit=contextual_hmm", "circuit.roles=4"],
    "segmented": [
        "smoke",
        "circuit=segmented_hmm",
        "circuit.num_states=16",
        "optimizer.cycles=3",
        "optimizer.alone_cycles=1",
    ],
    "policy": POLICY,
    "joint": ["smoke", "objective=joint_likelihood", "objective.lora_rank=2"],
    "muon": ["tiny_backbone", "backbone.num_layers=1", "backbone.hidden_size=32"],
}


def train(folder: Path, experiment: str = "smoke", *overrides: str) -> int:
    return main(["train", experiment, *TINY, f"output_dir={folder}", *overrides])


class Killed(BaseException):
    """Stands in for SIGKILL where a test runs in one process: nothing of ours expects it."""


def train_killed(folder: Path, saves: int, *arguments: str) -> None:
    """A run that dies once it has written some checkpoints."""
    save, count = RunCheckpoints.save, iter(range(1, 1000))

    def and_die(self: RunCheckpoints, *args: Any, **options: Any) -> None:
        save(self, *args, **options)
        if next(count) == saves:
            raise Killed

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(RunCheckpoints, "save", and_die)
        with pytest.raises(Killed):
            train(folder, *arguments)


def state_of(folder: Path) -> dict[str, Any]:
    """What a run ended with, besides times."""
    checkpoint = read_checkpoint(folder / "checkpoints" / "last.ckpt")
    best = read_checkpoint(folder / "checkpoints" / "best.ckpt")
    kept = {name: checkpoint[name] for name in ("state_dict", "optimizer_states", "lr_schedulers", "global_step")}
    exported = {file.parent.name: file.read_bytes() for file in folder.glob("*/model.safetensors")}
    return {
        **kept,
        "random_states": checkpoint["random_states"],
        "progress": checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]["total"]["completed"],
        "best": best["global_step"],
        "best_state": best["state_dict"],
        "exported": exported,
    }


def same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def differing(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    return [name for name in one if not same(one[name], other[name])]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """How a run ends that nothing disturbs."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    assert train(folder) == 0
    return state_of(folder)


@pytest.mark.parametrize("saves", [1, 3, 5])  # in the first epoch, at its end, in the second
def test_a_run_goes_on_exactly_from_a_checkpoint(saves: int, whole: dict[str, Any], tmp_path: Path) -> None:
    train_killed(tmp_path, saves)
    assert train(tmp_path) == 0
    assert not differing(whole, state_of(tmp_path))
    assert json.loads((tmp_path / "manifest.json").read_text())["resumed"] == [{"step": (0, 2, 4, 5, 6, 8)[saves]}]


def test_draws_from_default_generators_go_on_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """None of ours do; layers with dropout and other people's callbacks may."""
    training_step = CircuitModule.training_step

    def noisy(self: CircuitModule, batch: Any, batch_idx: int) -> torch.Tensor:
        loss = training_step(self, batch, batch_idx)
        assert loss is not None
        return loss * (torch.rand(()) + random.random() + np.random.rand())

    monkeypatch.setattr(CircuitModule, "training_step", noisy)
    assert train(tmp_path / "whole") == 0
    for saves in (1, 3):
        train_killed(tmp_path / str(saves), saves)
        assert train(tmp_path / str(saves)) == 0
        assert not differing(state_of(tmp_path / "whole"), state_of(tmp_path / str(saves)))


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_a_run_goes_on_exactly_from_every_checkpoint(case: str, tmp_path: Path) -> None:
    assert train(tmp_path / "whole", *CASES[case]) == 0
    undisturbed = state_of(tmp_path / "whole")
    for saves in range(1, 9):
        folder = tmp_path / str(saves)
        train_killed(folder, saves, *CASES[case])
        assert train(folder, *CASES[case]) == 0
        assert not differing(undisturbed, state_of(folder)), saves


@pytest.mark.parametrize("moment", range(6))
def test_a_run_killed_while_it_writes_a_checkpoint_loses_at_most_that_one(
    moment: int, whole: dict[str, Any], tmp_path: Path
) -> None:
    """Of the second checkpoint half is written, or one of the steps is missing that put it in its place."""
    with pytest.MonkeyPatch.context() as patched:
        kill_in_save(moment, patched)
        with pytest.raises(Killed):
            train(tmp_path)
    assert train(tmp_path) == 0
    assert not differing(whole, state_of(tmp_path))
    assert not list((tmp_path / "checkpoints").glob(".*"))


def kill_in_save(moment: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dies in the middle of a write (0), or before the renaming of that number, counted over all checkpoints."""
    torch_save, replace = torch.save, os.replace
    writes, renames = iter(range(1000)), iter(range(1, 1000))

    def half(checkpoint: Any, file: Any) -> None:
        torch_save(checkpoint, file)
        if moment == 0 and next(writes) == 1:
            file.truncate(file.tell() // 2)
            raise Killed

    def or_die(source: Path, target: Path) -> None:
        if Path(target).suffix == ".ckpt" and next(renames) == moment:
            raise Killed
        replace(source, target)

    monkeypatch.setattr(torch, "save", half)
    monkeypatch.setattr(os, "replace", or_die)


@pytest.fixture
def stopped(tmp_path: Path) -> Path:
    """The folder of a run that was killed after its third checkpoint."""
    train_killed(tmp_path / "run", 3)
    return tmp_path / "run"


@pytest.mark.parametrize("damage", ["cut short", "a bit turned", "empty"])
def test_the_checkpoint_before_a_damaged_one_is_used(
    damage: str, stopped: Path, whole: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    last = stopped / "checkpoints" / "last.ckpt"
    content = bytearray(last.read_bytes())
    if damage == "a bit turned":
        content[len(content) // 2] ^= 1
    last.unlink()  # the best shares its bytes
    last.write_bytes({"cut short": content[: len(content) // 2], "empty": b""}.get(damage, content))
    capsys.readouterr()
    assert train(stopped) == 0
    warnings = [line for line in capsys.readouterr().out.splitlines() if "damaged" in line]
    assert len(warnings) == 1
    assert "last.ckpt" in warnings[0]
    assert "previous.ckpt" in warnings[0]
    assert not differing(whole, state_of(stopped))


def test_damaged_checkpoints_alone_are_named_with_the_mend(stopped: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in (stopped / "checkpoints").glob("*.ckpt"):
        path.write_bytes(b"no checkpoint")
    assert train(stopped) == 2
    error = capsys.readouterr().err
    assert "overwrite=true" in error
    assert error.count("\n") == 1


def test_a_full_disk_ends_a_run_in_one_line_with_the_last_checkpoint_whole(
    whole: dict[str, Any], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    writes, torch_save = iter(range(1000)), torch.save

    def until_full(checkpoint: Any, file: Any) -> None:
        if next(writes) == 3:
            file.write(b"as much as fits")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        torch_save(checkpoint, file)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(torch, "save", until_full)
        assert train(tmp_path) == 2
    error = capfd.readouterr().err.splitlines()
    assert "No space left on device" in error[-1]
    assert "step 6" in error[-1]
    assert sum(line.startswith("codd") for line in error) == 1
    assert is_whole(tmp_path / "checkpoints" / "last.ckpt")
    assert train(tmp_path) == 0
    assert not differing(whole, state_of(tmp_path))


def command(folder: Path, *overrides: str) -> list[str]:
    return [
        sys.executable,
        "-m",
        "codd_lightning.cli.main",
        "train",
        "smoke",
        *TINY,
        f"output_dir={folder}",
        *overrides,
    ]


@pytest.mark.slow
@pytest.mark.parametrize("kib", [4, 40, 100, 400, 700])
def test_a_small_disk_that_fills_up_ends_a_run_in_one_line(kib: int, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={kib}k", "none", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("a small disk cannot be mounted here")
    try:
        larger = ["circuit.num_states=64", "trainer.checkpoint_every_n_steps=1"]
        done = subprocess.run(command(disk / "run", *larger), capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == 2
        assert "space" in done.stderr
        assert done.stderr.count("\n") == 1, done.stderr
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def kill_at(seconds: float, folder: Path) -> int:
    """Starts the run, kills it after a while, and returns its exit status."""
    with subprocess.Popen(command(folder), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            return process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()


@pytest.mark.slow
def test_a_run_killed_at_twenty_random_moments_ends_as_if_nothing_had_happened(tmp_path: Path) -> None:
    started = time.monotonic()
    assert kill_at(600, tmp_path / "whole") == 0
    longest = time.monotonic() - started
    whole, moments = state_of(tmp_path / "whole"), random.Random(0)
    kills = number = 0
    while kills < 20:
        number += 1
        folder = tmp_path / str(number)
        finished = folder / "results.json"
        # later starts of a run get further than its first, so most are killed in training
        while kills < 20 and (status := kill_at(moments.uniform(0.5, 1.0) * longest, folder)) != 0:
            assert status == -signal.SIGKILL
            kills += 1
            if finished.exists():
                break  # killed on its way out: it is not run again
        if not finished.exists():
            assert kill_at(600, folder) == 0
        assert not differing(whole, state_of(folder))


def test_a_policy_stops_after_its_updates_at_its_last_learning_rate(tmp_path: Path) -> None:
    """A batch is two updates here: seven end in the middle of one, and every third is passed between batches."""
    options = [
        "trainer.max_steps=7",
        "trainer.checkpoint_every_n_steps=3",
        "optimizer.lr=1e-3",
        "optimizer.warmup_steps=0",
    ]
    assert train(tmp_path / "run", *POLICY, *options, "optimizer.final_fraction=0.1") == 0
    last = read_checkpoint(tmp_path / "run" / "checkpoints" / "last.ckpt")
    assert last["global_step"] == 7
    assert last["lr_schedulers"][0]["_last_lr"][0] == pytest.approx(1e-4)
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert manifest["checkpoints"]["written"] == 3  # after 4 and 6 updates, and at the end
