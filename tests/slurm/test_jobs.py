"""Our batch scripts and grids in a real queue: signalled jobs save, are queued again, and end as undisturbed ones."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.slurm.cluster import Cluster, missing, wait_until

ROOT = Path(__file__).parents[2]
TINY = [
    *("circuit.num_states=8", "data.batch_size=8", "data.validation_size=8", "data.test_size=8"),
    *("trainer.num_threads=1", "callbacks=none", "backbone.dtype=float32"),
    *("evaluation.examples=0", "evaluation.likelihood_examples=8"),
]
TRAINING = [*TINY, "data.train_size=320", "trainer.max_epochs=4"]  # of 40 steps
CELL = [*TINY, "data.train_size=16", "trainer.max_epochs=1", "trainer.progress_bar=false"]

pytestmark = [pytest.mark.slurm, pytest.mark.skipif(missing() is not None, reason=missing() or "")]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path_factory.mktemp("cluster"))
    # the command of this environment, and this package, in jobs too
    cluster.environment["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    cluster.environment["PYTHONPATH"] = str(ROOT)
    cluster.environment["OMP_NUM_THREADS"] = "1"
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder from which jobs are submitted, with our scripts."""
    place = tmp_path_factory.mktemp("place")
    shutil.copytree(ROOT / "slurm", place / "slurm")
    return place


@pytest.fixture(scope="module")
def undisturbed(cluster: Cluster, place: Path) -> Path:
    """A run of two ranks, in a job that nobody signals."""
    job = cluster.submit("train", "smoke", *TRAINING, cwd=place, options=("--ntasks-per-node=2",))
    cluster.wait(job)
    assert cluster.facts(job)["JobState"] == "COMPLETED", said(place, job)
    return place / "outputs" / "smoke" / job


def said(place: Path, job: str) -> str:
    """All that a job has printed so far."""
    return "\n".join(file.read_text() for file in sorted(place.glob(f"codd-*-{job}.out")))


def resumed_steps(run: Path) -> list[int]:
    return [start["step"] for start in json.loads((run / "manifest.json").read_text())["resumed"]]


def test_two_signalled_ranks_save_and_end_with_the_bits_of_an_undisturbed_run(
    undisturbed: Path, cluster: Cluster, place: Path
) -> None:
    job = cluster.submit("train", "smoke", *TRAINING, cwd=place, options=("--ntasks-per-node=2",))
    run = place / "outputs" / "smoke" / job
    wait_until((run / "checkpoints" / "last.ckpt").exists, 90, lambda: said(place, job))  # the first epoch has ended
    cluster.run("scancel", "--signal=USR1", job)
    cluster.wait(job)
    facts = cluster.facts(job)
    assert (facts["JobState"], facts["ExitCode"], facts["Restarts"]) == ("COMPLETED", "0:0", "1"), said(place, job)
    assert "SLURM's signal came: saved at step" in said(place, job)
    assert len(resumed_steps(run)) == 1
    assert 0 < resumed_steps(run)[0] < 160
    ours, theirs = (load_file(folder / "circuit" / "model.safetensors") for folder in (run, undisturbed))
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        assert torch.equal(ours[name], value), name


def test_a_signal_while_a_job_begins_queues_it_again_and_a_cancelled_job_stays_cancelled(
    cluster: Cluster, place: Path
) -> None:
    job = cluster.submit("train", "smoke", *TRAINING, "trainer.max_epochs=1000", cwd=place)
    begun = place / "outputs" / "smoke" / job / "config.yaml"
    wait_until(begun.exists, 90, lambda: said(place, job))
    cluster.run("scancel", "--signal=TERM", job)
    again = "queueing job"
    wait_until(lambda: again in said(place, job), 60, lambda: said(place, job))
    # whether its first start came as far as saying where it writes depends on when the signal arrived
    wait_until(lambda: "smoke →" in said(place, job).partition(again)[2], 90, lambda: said(place, job))
    cluster.run("scancel", job)
    cluster.wait(job)
    facts = cluster.facts(job)
    assert (facts["JobState"], facts["Restarts"]) == ("CANCELLED", "1")
    assert said(place, job).count(again) == 1


def test_caches_and_evaluations_that_are_signalled_go_on(undisturbed: Path, cluster: Cluster, place: Path) -> None:
    work = ["data.train_size=800", "cache.shard_batches=8", "cache.path=cache"]
    cache = cluster.submit("cache", "smoke", *TINY, *work, cwd=place, options=("--ntasks-per-node=2",))
    wait_until(lambda: any(place.glob("cache/*.arrow")), 90, lambda: said(place, cache))
    cluster.run("scancel", "--signal=USR1", cache)
    shutil.copytree(undisturbed, place / "measured")
    measured = [*TRAINING, "evaluation.examples=96", "evaluation.batch_size=4", "evaluation.steps_per_block=[32]"]
    measured += ["evaluation.decoders=[{proposal: any_order}]"]
    measured += ["data.test_size=96", "trainer=ddp", "trainer.accelerator=cpu", "output_dir=measured"]
    evaluate = cluster.submit("evaluate", "smoke", *measured, cwd=place)
    wait_until(lambda: any(place.glob("measured/samples/*.jsonl")), 120, lambda: said(place, evaluate))
    cluster.run("scancel", "--signal=USR1", evaluate)
    cluster.wait(cache, evaluate)
    for job in (cache, evaluate):
        facts = cluster.facts(job)
        assert (facts["JobState"], facts["Restarts"]) == ("COMPLETED", "1"), said(place, job)
    assert (place / "cache" / "index.json").exists()
    rows = json.loads((place / "measured" / "results.json").read_text())["metrics"]
    assert {row["n"] for row in rows if row["name"] == "strict_accuracy"} == {96}


def test_a_grid_is_one_array_whose_failed_cells_fail_and_are_run_again(cluster: Cluster, place: Path) -> None:
    grid = place / "grid"
    options = ["hydra/launcher=slurm", "hydra.launcher.cpus_per_task=1", "hydra.launcher.array_parallelism=2"]
    cells = ["optimizer=adamw,muon", "circuit.num_states=4"]  # muon is not for circuits
    command = [sys.executable, "-m", "codd_lightning.cli.main", "train", "smoke", "-m", *CELL, *cells, *options]
    command += [f"output_dir={grid}", "+hydra.launcher.additional_parameters.hold=true"]

    def started() -> subprocess.Popen[str]:
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen(command, cwd=place, env=cluster.environment, text=True, bufsize=1, **pipes)

    def jobs() -> dict[str, str]:
        return json.loads((grid / "jobs.json").read_text())

    with started() as waiting:
        wait_until((grid / "jobs.json").exists, 60, lambda: "nothing was submitted")
        waiting.send_signal(signal.SIGINT)
        _, error = waiting.communicate(timeout=30)
    assert waiting.returncode == 130
    assert f"start the same grid with output_dir={grid} to collect them" in error

    first = jobs()
    assert sorted(first) == ["optimizer=adamw", "optimizer=muon"]
    with started() as waiting:
        assert waiting.stdout is not None
        assert "2 cells in the queue, 0 of them new" in waiting.stdout.readline()  # held, so that they are still there
        cluster.run("scontrol", "release", first["optimizer=adamw"].split("_")[0])
        printed, error = waiting.communicate(timeout=120)
    assert waiting.returncode == 1, error
    assert jobs() == first
    states = {cell: cluster.facts(job) for cell, job in first.items()}
    assert {cell: (facts["JobState"], facts["ExitCode"]) for cell, facts in states.items()} == {
        "optimizer=adamw": ("COMPLETED", "0:0"),
        "optimizer=muon": ("FAILED", "2:0"),
    }
    assert states["optimizer=adamw"]["ArrayJobId"] == states["optimizer=muon"]["ArrayJobId"]
    assert "optimizer=muon: failed, see" in printed
    assert "2 cells under" in printed

    command.pop()  # not held
    with started() as waiting:
        printed, _ = waiting.communicate(timeout=120)
    assert waiting.returncode == 1
    assert printed.count("finished before") == 1
    assert jobs()["optimizer=adamw"] == first["optimizer=adamw"]
    assert jobs()["optimizer=muon"] != first["optimizer=muon"]


def test_a_list_of_runs_is_an_array_of_its_own(cluster: Cluster, place: Path) -> None:
    (place / "cells.txt").write_text(f"{' '.join(CELL)} seed=1\ncircuit.num_state=4\n")
    array = cluster.submit("grid", "smoke", "cells.txt", cwd=place, options=("--array=1-2%2",))
    cluster.wait(array)
    assert (place / "outputs" / "smoke" / array / "1" / "results.json").exists()
    assert [cluster.facts(f"{array}_{task}")["JobState"] for task in (1, 2)] == ["COMPLETED", "FAILED"]
