"""Jobs of SLURM, where squeue and scontrol only pretend; tests/slurm has real ones."""

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from codd_lightning.cli import slurm
from codd_lightning.cli.main import main
from codd_lightning.cli.preemption import LeaveWhenAsked
from codd_lightning.cli.run_folder import RunFolder
from codd_lightning.cli.slurm import STATUS, Notice, Preempted
from codd_lightning.evaluation import FewStepEvaluation
from codd_lightning.modules import CircuitModule
from tests.cli.test_resume import differing, state_of, train

pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")


@pytest.fixture
def _own_handlers() -> Iterator[None]:
    """Signals mean again after a test what they meant before."""
    handlers = {number: signal.getsignal(number) for number in slurm.SIGNALS}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, _own_handlers: None) -> Callable[[], list[str]]:
    """This process is job 7, which runs; returns what was asked of scontrol."""
    programs, asked = tmp_path / "programs", tmp_path / "asked"
    programs.mkdir()
    asked.touch()
    (programs / "squeue").write_text("#!/bin/sh\necho ${STATE:-RUNNING}\n")
    (programs / "scontrol").write_text(f'#!/bin/sh\necho "$@" >> {asked}\n')
    for program in programs.iterdir():
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    for name in [name for name in os.environ if name.startswith("SLURM_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setattr(slurm.notice, "given", False)
    monkeypatch.setattr(slurm.notice, "_deferred", False)
    return lambda: asked.read_text().splitlines()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("runs") / "whole"
    assert train(folder) == 0
    return state_of(folder)


def signal_in(monkeypatch: pytest.MonkeyPatch, owner: type, name: str, call: int) -> None:
    """Sends this process a signal in one call of a method."""
    method, calls = getattr(owner, name), iter(range(1, 1000))

    def signalled(*args: Any, **options: Any) -> Any:
        if next(calls) == call:
            os.kill(os.getpid(), signal.SIGUSR1)
        return method(*args, **options)

    monkeypatch.setattr(owner, name, signalled)


@pytest.mark.parametrize(
    ("owner", "name", "call", "step"),
    [
        (CircuitModule, "training_step", 3, 3),  # saved after that batch
        (CircuitModule, "training_step", 5, 4),  # an epoch's last: validation would come first
        (CircuitModule, "validation_step", 2, 8),  # what was saved before it
        (LeaveWhenAsked, "on_train_epoch_start", 2, 5),
    ],
)
def test_a_signalled_run_is_queued_again_and_ends_as_an_undisturbed_one(
    owner: type,
    name: str,
    call: int,
    step: int,
    whole: dict[str, Any],
    job: Callable[[], list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = tmp_path / "run"
    with monkeypatch.context() as patched:
        signal_in(patched, owner, name, call)
        assert train(run) == STATUS
    assert job() == ["requeue 7"]
    error = capsys.readouterr().err.splitlines()
    assert [line.split(":")[0] for line in error] == ["codd", "codd"]
    monkeypatch.setattr(slurm.notice, "given", False)  # of the next process
    monkeypatch.setattr(slurm.notice, "_deferred", False)
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert train(run) == 0
    assert json.loads((run / "manifest.json").read_text())["resumed"] == [{"step": step}]
    assert not differing(whole, state_of(run))


def test_a_signal_while_samples_are_decoded_drops_one_batch(
    job: Callable[[], list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    options = ["evaluation.examples=8", "evaluation.batch_size=4", "evaluation.steps_per_block=[1]"]
    with monkeypatch.context() as patched:
        signal_in(patched, FewStepEvaluation, "decode_batch", 3)
        assert train(run, "smoke", *options) == STATUS
    assert len(list((run / "samples").glob("*.jsonl"))) == 1
    monkeypatch.setattr(slurm.notice, "given", False)
    decoded: list[int] = []
    decode = FewStepEvaluation.decode_batch
    monkeypatch.setattr(FewStepEvaluation, "decode_batch", lambda *args: decoded.append(1) or decode(*args))
    assert train(run, "smoke", *options) == 0
    assert len(decoded) == 4  # of three decoders' two batches


@pytest.mark.parametrize("state", ["COMPLETING", ""])
def test_a_job_that_slurm_is_ending_is_left_alone(
    state: str, job: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("STATE", state or " ")
    assert slurm.leave(Preempted("saved at step 3")) == STATUS
    assert job() == []
    assert "not queued again by us" in capsys.readouterr().err


def test_a_task_of_an_array_is_queued_again_alone(
    job: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "7")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "2")
    slurm.leave(Preempted("saved"))
    assert job() == ["requeue 7_2"]


@pytest.mark.parametrize(
    ("owner", "name", "call", "queued"),
    [
        (CircuitModule, "training_step", 1, True),  # one batch further
        (CircuitModule, "validation_step", 1, False),  # trained to the epoch's end, and validation lost it
        (RunFolder, "prepare", 1, False),  # not even that far
    ],
)
def test_a_job_that_gets_no_further_ends_instead_of_being_queued_for_ever(
    owner: type,
    name: str,
    call: int,
    queued: bool,
    job: Callable[[], list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run, rarely = tmp_path / "run", "trainer.checkpoint_every_n_steps=null"
    with monkeypatch.context() as patched:
        signal_in(patched, CircuitModule, "training_step", 3)
        assert train(run, "smoke", rarely) == STATUS
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    monkeypatch.setattr(slurm.notice, "given", False)
    monkeypatch.setattr(slurm.notice, "_deferred", False)
    capsys.readouterr()
    with monkeypatch.context() as patched:
        signal_in(patched, owner, name, call)
        assert train(run, "smoke", rarely) == (STATUS if queued else 2)
    assert job() == ["requeue 7"] * (2 if queued else 1)
    error = capsys.readouterr().err
    assert ("job 7 has saved nothing since it was queued again" in error) is not queued
    assert error.count("\n") == 2


def test_samples_that_were_decoded_are_progress(
    job: Callable[[], list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    slurm.progress.watch(tmp_path, "samples/*")
    (tmp_path / "samples").mkdir()
    (tmp_path / "samples" / "1.jsonl").write_text("{}\n")
    assert slurm.leave(Preempted("saved")) == STATUS
    slurm.progress.watch(tmp_path, "samples/*")
    assert slurm.leave(Preempted("saved")) == 2
    with (tmp_path / "samples" / "1.jsonl").open("a") as file:
        file.write("{}\n")
    assert slurm.leave(Preempted("saved")) == STATUS
    assert job() == ["requeue 7"] * 2


@pytest.mark.usefixtures("_own_handlers")
def test_a_signal_ends_what_runs_once_and_waits_where_somebody_asks() -> None:
    notice = Notice()
    notice.listen()
    notice.defer()
    os.kill(os.getpid(), signal.SIGUSR1)
    assert notice.given
    with pytest.raises(Preempted):
        notice.obey()
    os.kill(os.getpid(), signal.SIGTERM)  # SLURM's next, while it leaves
    other = Notice()
    other.listen()
    with pytest.raises(Preempted):
        os.kill(os.getpid(), signal.SIGUSR2)


@pytest.mark.usefixtures("job")
@pytest.mark.parametrize("command", ["train", "evaluate"])
def test_a_job_needs_a_folder_that_it_finds_again(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([command, "smoke"]) == 2
    assert "output_dir=outputs/smoke/$SLURM_JOB_ID" in capsys.readouterr().err
    monkeypatch.setenv("SLURM_JOB_NAME", "interactive")
    assert not slurm.in_job()


@pytest.mark.usefixtures("job")
def test_a_job_overwrites_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "run"
    assert train(run) == 0
    with monkeypatch.context() as patched:
        signal_in(patched, CircuitModule, "training_step", 3)
        assert train(run, "smoke", "overwrite=true") == STATUS
    monkeypatch.setattr(slurm.notice, "given", False)
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert train(run, "smoke", "overwrite=true") == 0
    assert json.loads((run / "manifest.json").read_text())["resumed"] == [{"step": 3}]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["hydra/launcher=slurm"], "is for grids: add -m"),
        (["-m", "hydra/launcher=joblib"], "there are: basic, local, slurm"),
        (["-m", "hydra/launcher=local", "hydra.launcher.at_once=0"], "hydra.launcher.at_once=0"),
        (["-m", "hydra/launcher=slurm", "hydra.launcher.partitio=x"], "hydra.launcher.partitio"),
        (["-m", "hydra/launcher=slurm"], "there is no squeue here"),
    ],
)
def test_what_is_wrong_with_a_launcher_is_one_line(
    arguments: list[str],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert (
        main(
            ["train", "smoke", *arguments, "seed=1,2", f"output_dir={tmp_path / 'grid'}"][
                : None if "-m" in arguments else 3
            ]
        )
        == 2
    )
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
    assert "squeue" in words or not (tmp_path / "grid").exists()


@pytest.mark.usefixtures("_own_handlers")
def test_a_queue_that_does_not_answer_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "squeue").write_text("#!/bin/sh\necho 'Unable to contact slurm controller' >&2\nexit 1\n")
    (tmp_path / "squeue").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    grid = ["-m", "hydra/launcher=slurm", "seed=1,2", f"output_dir={tmp_path / 'grid'}"]
    assert main(["train", "smoke", *grid]) == 2
    error = capsys.readouterr().err
    assert error == "codd: hydra/launcher=slurm: SLURM does not answer (Unable to contact slurm controller)\n"
