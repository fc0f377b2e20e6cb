"""Where the cells of a grid run: here, some at a time here, or as a job array of SLURM."""

import importlib.util
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from codd_lightning.cli.compose import check
from codd_lightning.cli.failure import report_error
from codd_lightning.cli.ranks import start
from codd_lightning.cli.run_folder import holds_finished, write_text
from codd_lightning.errors import UserError

POLL_SECONDS = 5.0
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
JOBS = "jobs.json"  # of a grid: the job of each cell that was submitted last
SUBMITIT = ".submitit"  # of a grid: a folder for each job, with its messages
# Options of `hydra/launcher=slurm` that submitit takes for all clusters alike; the others are SLURM's.
OF_ANY_CLUSTER = (
    *("name", "timeout_min", "mem_gb", "nodes", "cpus_per_task", "gpus_per_node", "tasks_per_node"),
    "stderr_to_stdout",
)


@dataclass(frozen=True)
class Cell:
    """One run of a grid.

    Attributes:
        experiment: a name, or a path.
        overrides: of this cell, none of them a sweep.
        config: what they compose to, with the cell's folder.
    """

    experiment: str
    overrides: list[str]
    config: DictConfig

    @property
    def folder(self) -> Path:
        return Path(self.config.output_dir)

    @property
    def finished(self) -> bool:
        """Whether its folder holds its results."""
        return holds_finished(self.config)

    @property
    def arguments(self) -> list[str]:
        """Of the command that runs it alone."""
        quoted = str(self.folder).replace("'", r"\'")
        return ["train", self.experiment, *self.overrides, f"output_dir='{quoted}'"]


# Runs cells, given the launcher's options; returns the exit status of each.
Launcher = Callable[[Sequence[Cell], DictConfig], list[int]]


def one_after_another(cells: Sequence[Cell], options: DictConfig) -> list[int]:
    """In this process."""
    return [_run(cell) for cell in cells]


def _run(cell: Cell) -> int:
    try:
        check(cell.config)
        start(cell.config, cell.overrides)
    except Exception as error:
        return report_error(error)
    return 0


def some_at_a_time(cells: Sequence[Cell], options: DictConfig) -> list[int]:
    """In processes of their own, whose messages go into files; a signal that ends this one is passed on to them.

    Raises:
        KeyboardInterrupt: such a signal came; says how to go on.
    """
    started: list[subprocess.Popen[bytes]] = []
    ended, starts = threading.Event(), threading.RLock()  # a second signal may come while the first is passed on
    parent = cells[0].folder.parent

    def run(cell: Cell) -> int:
        messages = parent / f"{cell.folder.name}.log"
        parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "codd_lightning.cli.main", *cell.arguments]
        with messages.open("w") as file:
            with starts:  # or one could start when the others have been ended
                if ended.is_set():
                    return 1
                # in a session of its own, so that Ctrl-C reaches it once, and by us
                process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, start_new_session=True)
                started.append(process)
            status = process.wait()
        print(f"{cell.folder}: {'done' if status == 0 else f'failed, see {messages}'}", flush=True)
        return status

    def end(number: int, _: Any) -> None:
        with starts:
            ended.set()
            for process in started:
                process.send_signal(number)
        raise KeyboardInterrupt(f"start the same grid with output_dir={parent} to go on")

    before = {number: signal.getsignal(number) for number in ENDING}
    for number, handler in before.items():
        if handler in (signal.SIG_DFL, signal.default_int_handler):  # in a job, SLURM tells the cells itself
            signal.signal(number, end)
    try:
        with ThreadPoolExecutor(options.at_once) as pool:
            return list(pool.map(run, cells))
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@dataclass(frozen=True)
class CellTask:
    """What a task of the job array does; submitit stores it and calls it there."""

    arguments: list[str]

    def __call__(self) -> None:
        from codd_lightning.cli.main import main

        if status := main(self.arguments):
            sys.exit(status)  # as the task's; to raise would only write a file for whoever waits

    def checkpoint(self) -> Any:
        """What submitit runs when a signal comes before the command listens: the same again."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def as_job_array(cells: Sequence[Cell], options: DictConfig) -> list[int]:
    """As tasks of one job array of SLURM; waits for them, and for those that an earlier start has submitted.

    A cell has succeeded if its folder holds its results, whoever wrote them and whatever became of the job.

    Raises:
        UserError: SLURM does not take them.
        KeyboardInterrupt: the jobs go on; says how to collect them.
    """
    if any(cell.config.overwrite for cell in cells):
        raise UserError("overwrite=true: cells of a job array go on when they are queued again; give a new output_dir")
    parent = cells[0].folder.parent
    jobs: dict[str, str] = json.loads((parent / JOBS).read_text()) if (parent / JOBS).exists() else {}
    active = _active_jobs()
    new = [cell for cell in cells if jobs.get(cell.folder.name) not in active]
    if new:
        jobs |= dict(zip((cell.folder.name for cell in new), _submit(new, options, parent), strict=True))
        write_text(parent / JOBS, json.dumps(jobs, indent=1) + "\n")
    print(f"{parent}: {len(cells)} cells in the queue, {len(new)} of them new; Ctrl-C leaves them there", flush=True)
    try:
        _wait(cells, jobs)
    except KeyboardInterrupt:
        ids = " ".join(dict.fromkeys(jobs[cell.folder.name].split("_")[0] for cell in cells))
        raise KeyboardInterrupt(
            f"the jobs go on: start the same grid with output_dir={parent} to collect them; scancel {ids} ends them"
        ) from None
    return [0 if cell.finished else 1 for cell in cells]


def _submit(cells: Sequence[Cell], options: DictConfig, parent: Path) -> list[str]:
    """Submits cells; returns their jobs' ids."""
    import submitit
    from submitit.core.utils import FailedJobError

    values: dict[str, Any] = OmegaConf.to_container(options, resolve=True)  # type: ignore[assignment]  # not a list
    values.pop("_target_")
    most = values.pop("max_num_timeout")
    del values["submitit_folder"]  # lies with the grid, which Hydra does not know
    named = {name if name in OF_ANY_CLUSTER else f"slurm_{name}": value for name, value in values.items()}
    try:
        executor = submitit.AutoExecutor(parent / SUBMITIT / "%j", cluster="slurm", slurm_max_num_timeout=most)
        executor.update_parameters(**named)
        return [job.job_id for job in executor.submit_array([CellTask(cell.arguments) for cell in cells])]
    except (FailedJobError, RuntimeError, OSError) as error:
        raise UserError(f"SLURM does not take the grid: {str(error).strip().splitlines()[-1]}") from None


def _wait(cells: Sequence[Cell], jobs: dict[str, str]) -> None:
    """Until no cell's job is in the queue; says when each has ended."""
    left = list(cells)
    while left:
        try:
            active = _active_jobs()
        except UserError:  # the controller answered before: it is busy, or starts again
            time.sleep(POLL_SECONDS)
            continue
        for cell in [cell for cell in left if jobs[cell.folder.name] not in active]:
            left.remove(cell)
            messages = cell.folder.parent / SUBMITIT / jobs[cell.folder.name]
            outcome = "done" if cell.finished else f"failed, see {messages}"
            print(f"{cell.folder.name}: {outcome} ({len(cells) - len(left)} of {len(cells)})", flush=True)
        if left:
            time.sleep(POLL_SECONDS)


def _active_jobs() -> set[str]:
    """Jobs of this user that wait, run or end, array tasks one by one.

    Raises:
        UserError: there is no SLURM here, or it does not answer.
    """
    command = ["squeue", "--me", "-h", "-r", "-o", "%i"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise UserError("hydra/launcher=slurm: there is no squeue here; submit from a node of the cluster") from None
    if done.returncode != 0:
        said = done.stderr.strip().splitlines() or ["no reason given"]
        raise UserError(f"hydra/launcher=slurm: SLURM does not answer ({said[-1]})")
    return set(done.stdout.split())


LAUNCHERS: dict[str, Launcher] = {"basic": one_after_another, "local": some_at_a_time, "slurm": as_job_array}


def require_options(name: str, options: DictConfig) -> None:
    """Refuses options of a launcher that it cannot work with.

    Raises:
        UserError: names the mend.
    """
    if name == "local" and not (isinstance(options.at_once, int) and options.at_once > 0):
        raise UserError(f"hydra.launcher.at_once={options.at_once} must be a whole number of cells, at least 1")


def require_launcher(overrides: Sequence[str]) -> None:
    """Refuses launchers that there are not.

    Raises:
        UserError: names the mend.
    """
    for override in overrides:
        key, _, name = override.partition("=")
        if key != "hydra/launcher":
            continue
        if name not in LAUNCHERS:
            raise UserError(f"{override} is not a launcher of grids; there are: {', '.join(LAUNCHERS)}")
        if name == "slurm" and importlib.util.find_spec("submitit") is None:
            raise UserError("hydra/launcher=slurm needs submitit: pip install 'codd-lightning[slurm]'")
