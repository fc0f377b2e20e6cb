"""A run's folder: stopped, moved, damaged and replaced runs."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from codd_lightning.cli.main import main

SMALL = [
    "data.train_size=96",
    "data.validation_size=16",
    "data.test_size=16",
    "trainer.max_epochs=3",
    "trainer.progress_bar=false",
    "trainer.num_threads=1",
    "callbacks=none",
    "evaluation.examples=0",
    "evaluation.likelihood_examples=16",
]


def train(folder: Path, *overrides: str) -> int:
    return main(["train", "smoke", *SMALL, f"output_dir={folder}", *overrides])


def measured(folder: Path) -> dict[tuple[object, ...], float]:
    rows = json.loads((folder / "results.json").read_text())["metrics"]
    return {
        (row["name"], *row.get("mask_ratio", ())): row["value"] for row in rows if row["name"] != "training_seconds"
    }


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    assert train(folder) == 0
    return folder


@pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")
class TestStoppedRuns:
    def test_a_run_killed_after_its_first_epoch_ends_with_the_same_figures(
        self, finished_run: Path, tmp_path: Path
    ) -> None:
        folder = tmp_path / "killed"
        command = [sys.executable, "-m", "codd_lightning.cli.main", "train", "smoke", *SMALL, f"output_dir={folder}"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 120
        while not (folder / "checkpoints" / "last.ckpt").exists() and time.monotonic() < deadline:
            time.sleep(0.005)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert not (folder / "results.json").exists(), "it finished before it was killed"
        assert train(folder) == 0
        assert json.loads((folder / "manifest.json").read_text())["resumed"][0]["step"] >= 2
        assert measured(folder) == measured(finished_run)

    def test_a_run_that_was_moved_still_knows_its_best_epoch(self, finished_run: Path, tmp_path: Path) -> None:
        first, moved = tmp_path / "first", tmp_path / "moved"
        assert train(first) == 0
        first.rename(moved)
        (moved / "results.json").unlink()
        assert train(moved) == 0
        assert measured(moved) == measured(finished_run)

    @pytest.mark.parametrize("part", ["manifest.json", "config.yaml"])
    def test_a_damaged_part_is_named_with_the_mend(
        self, finished_run: Path, part: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        damaged = tmp_path / "damaged"
        shutil.copytree(finished_run, damaged)
        (damaged / "results.json").unlink()
        (damaged / part).write_bytes(b"{\x00: [")
        assert train(damaged) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert "overwrite=true" in error


@pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")
class TestReplacedRuns:
    def test_the_old_run_is_there_until_the_new_one_is_whole(
        self, finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        folder = tmp_path / "run"
        shutil.copytree(finished_run, folder)
        (folder / "notes.txt").write_text("mine")
        with monkeypatch.context() as broken:
            broken.setattr("codd_lightning.cli.run.measure", lambda *_: 1 / 0)
            assert train(folder, "overwrite=true") == 1
        assert measured(folder / ".replaced") == measured(finished_run)
        assert (folder / ".replaced" / "circuit" / "model.safetensors").exists()
        assert train(folder) == 0
        assert measured(folder) == measured(finished_run)
        assert not (folder / ".replaced").exists()
        assert (folder / "notes.txt").read_text() == "mine"

    def test_results_of_something_else_are_not_replaced(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "results.json").write_text("precious")
        assert train(tmp_path) == 2
        assert "results.json" in capsys.readouterr().err
        assert (tmp_path / "results.json").read_text() == "precious"


def test_a_folder_that_the_logger_would_take_for_another_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PLACE", "elsewhere")
    assert train(tmp_path / "in $PLACE") == 2
    assert f"would be {tmp_path}/in elsewhere to TensorBoard" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
