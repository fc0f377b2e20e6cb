"""A SLURM of one node on this machine, below one folder and on free ports of the loopback: real daemons, real queue.

Needs root and the Debian packages slurmctld, slurmd and slurm-client. Nobody is authenticated, so nothing is bound to
an address that others reach.
"""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

DAEMONS = ("slurmctld", "slurmd")
PROGRAMS = (*DAEMONS, "sbatch", "squeue", "scontrol", "scancel", "srun")

CONFIGURATION = """\
ClusterName=codd
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
SlurmUser=root
SlurmdUser=root
AuthType=auth/none
CredType=cred/none
# a requeued job waits as long as its credential lives
AuthInfo=cred_expire=5
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
StateSaveLocation={folder}/controller
SlurmdSpoolDir={folder}/node
SlurmdParameters=config_overrides
MailProg=/bin/true
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=sched_interval=1,bf_interval=2
ReturnToService=2
JobRequeue=1
KillWait=2
NodeName={host} NodeAddr=127.0.0.1 Port={node_port} CPUs=8 RealMemory=16000 State=UNKNOWN
PartitionName=test Nodes={host} Default=YES MaxTime=INFINITE DefaultTime=10 State=UP
"""


def missing() -> str | None:
    """Why there can be no cluster here, if so."""
    if os.geteuid() != 0:
        return "SLURM's daemons are started as root"
    absent = [program for program in PROGRAMS if shutil.which(program) is None]
    return f"not installed: {', '.join(absent)}" if absent else None


class Cluster:
    """The cluster, and what a user does with it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}
        host = socket.gethostname().split(".")[0]
        controller_port, node_port = _free_ports(2)
        for name in ("controller", "node"):
            (folder / name).mkdir(parents=True)
        (folder / "slurm.conf").write_text(
            CONFIGURATION.format(folder=folder, host=host, controller_port=controller_port, node_port=node_port)
        )
        # 22.05 loads a cgroup plugin even where nothing uses it; this one touches nothing
        (folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")

    def start(self) -> None:
        """Starts the daemons, and waits until the node takes jobs."""
        for daemon in DAEMONS:
            self.run(daemon, "-f", self.environment["SLURM_CONF"])
        wait_until(lambda: "idle" in self.run("sinfo", "-h", "-o", "%T", check=False), 30, self.logs)

    def stop(self) -> None:
        """Cancels what is left, and ends the daemons."""
        self.run("scancel", "--full", "--user=root", check=False)
        deadline = time.monotonic() + 15
        while self.run("squeue", "-h", check=False) and time.monotonic() < deadline:
            time.sleep(0.2)
        for daemon in reversed(DAEMONS):
            if (file := self.folder / f"{daemon}.pid").exists():
                subprocess.run(["kill", file.read_text().strip()], check=False)

    def run(self, *command: str, cwd: Path | None = None, check: bool = True, **environment: str) -> str:
        """What a command prints, run as a user of the cluster."""
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, cwd=cwd, env={**self.environment, **environment}
        )
        assert done.returncode == 0 or not check, done.stderr
        return done.stdout.strip()

    def submit(self, script: str, *arguments: str, cwd: Path, options: tuple[str, ...] = ()) -> str:
        """Submits one of our scripts without GPUs; returns the job's id."""
        return self.run(
            *("sbatch", "--parsable", "--gres=none", "--cpus-per-task=1", *options),
            *(f"slurm/{script}.sbatch", *arguments),
            cwd=cwd,
            ACCELERATOR="cpu",
        )

    def wait(self, *jobs: str, seconds: float = 150) -> None:
        """Until jobs have left the queue."""
        for job in jobs:
            wait_until(lambda job=job: not self.run("squeue", "-h", "-j", job), seconds, self.logs)

    def facts(self, job: str) -> dict[str, str]:
        """What SLURM knows of a job: JobState, ExitCode, Restarts, ..."""
        words = self.run("scontrol", "-o", "show", "job", job).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def logs(self) -> str:
        """The ends of the daemons' logs."""
        return "\n".join("\n".join(file.read_text().splitlines()[-20:]) for file in self.folder.glob("*.log"))


def wait_until(holds: Callable[[], bool], seconds: float, otherwise: Callable[[], str]) -> None:
    """Waits for something that SLURM or a job does."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, otherwise()
        time.sleep(0.2)


def _free_ports(count: int) -> list[int]:
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports
