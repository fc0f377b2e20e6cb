"""Builds wheel and sdist, checks what they hold, and runs the quickstart from the installed wheel in an empty folder.

The wheel is built from the sdist. It is installed into an environment of its own that borrows the dependencies of
the one that runs this: torch is not downloaded again, and nothing of the checkout can be imported.
"""

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import time
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
# Where the package finds the folders that lie at the top of the checkout.
PLACES = {"callbacks/": "codd_lightning/callbacks/", "experiments/": "codd_lightning/configs/experiment/"}
LINKS = {place.rstrip("/") for place in PLACES.values()}
# The quickstart, its small form, and the next step, each cut down to seconds.
SECONDS = (
    "data.train_size=48 data.validation_size=64 data.test_size=16 trainer.max_epochs=1 trainer.progress_bar=false "
    "circuit.num_states=8 callbacks.few_step_reasoning.examples=2 evaluation.examples=4 "
    "evaluation.likelihood_examples=8 evaluation.steps_per_block=[4]"
)
COMMANDS = (
    f"train smoke output_dir=smoke {SECONDS}",
    f"train quickstart output_dir=quickstart {SECONDS}",
    "generate Hello. --circuit quickstart --max-new-tokens 32",
)


def main() -> int:
    """Exit status 0 if the distributions are whole and work; they are then in dist/."""
    with tempfile.TemporaryDirectory() as folder:
        built = Path(folder) / "dist"
        source = Path(folder) / "source"
        copy_checkout(source)
        run(sys.executable, "-m", "build", "--no-isolation", "--outdir", built, source, quiet=True)
        (wheel,), (sdist,) = built.glob("*.whl"), built.glob("*.tar.gz")
        require_whole(wheel, sdist)
        codd = install(wheel, Path(folder) / "venv")
        empty = Path(folder) / "empty"
        empty.mkdir()
        for command in COMMANDS:
            start = time.monotonic()
            run(codd, *command.split(), cwd=empty, quiet=True)
            print(f"codd {command.split(' output_dir')[0]}: {time.monotonic() - start:.0f} s", flush=True)
        for made in (wheel, sdist):
            (ROOT / "dist").mkdir(exist_ok=True)
            shutil.copy(made, ROOT / "dist")
            print(f"dist/{made.name}: {made.stat().st_size / 2**20:.1f} MiB")
    return 0


def require_whole(wheel: Path, sdist: Path) -> None:
    """Ends with a line for a file of the package that a distribution lacks, or one that it should not have."""
    expected = package_files()
    with zipfile.ZipFile(wheel) as archive:
        in_wheel = {name for name in archive.namelist() if ".dist-info/" not in name}
    with tarfile.open(sdist) as archive:
        in_sdist = {member.name.partition("/")[2] for member in archive if member.isfile()}
    for kind, lacking in (("wheel", expected - in_wheel), ("sdist", {*expected, "README.md", "LICENSE"} - in_sdist)):
        if lacking:
            sys.exit(f"the {kind} lacks {', '.join(sorted(lacking))}")
    if in_wheel - expected:
        sys.exit(f"the wheel holds what is not of the package: {', '.join(sorted(in_wheel - expected))}")


def package_files() -> set[str]:
    """Every file of the package, at its place in it."""
    files = {name for name in files_of_checkout() if name.startswith(("codd_lightning/", *PLACES))} - LINKS
    for top, place in PLACES.items():
        files = {place + name.removeprefix(top) if name.startswith(top) else name for name in files}
    return files


def files_of_checkout() -> list[str]:
    """Every file that git knows or would know, as it lies here, committed or not."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.splitlines()
    return [name for name in listed if os.path.lexists(ROOT / name)]


def copy_checkout(folder: Path) -> None:
    """Copies the checkout without what earlier builds left: setuptools packs all that a stale egg-info lists."""
    for name in files_of_checkout():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name, follow_symlinks=False)


def install(wheel: Path, folder: Path) -> Path:
    """An environment that holds the wheel alone and borrows the rest; returns its `codd`."""
    venv.create(folder)
    python = folder / "bin" / "python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", wheel)
    (site,) = folder.glob("lib/python*/site-packages")
    # A .pth line adds a folder, not the .pth files in it: the checkout's editable install stays unseen.
    (site / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    run(sys.executable, "-m", "pip", "--python", python, "check", quiet=True)
    found = run(python, "-c", "import codd_lightning; print(codd_lightning.__file__)", cwd=folder, quiet=True)
    if not Path(found.strip()).is_relative_to(site):
        sys.exit(f"codd_lightning is imported from {found.strip()}, not from the installed wheel")
    return folder / "bin" / "codd"


def run(*command: str | Path, cwd: Path | None = None, quiet: bool = False) -> str:
    """Runs a command without our PYTHONPATH; returns what it printed, or shows that and ends where it fails."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        list(map(str, command)),
        cwd=cwd,
        env=environment,
        stdout=subprocess.PIPE if quiet else None,
        stderr=subprocess.STDOUT if quiet else None,
        text=True,
    )
    if done.returncode:
        sys.exit(f"{done.stdout or ''}{' '.join(map(str, command))}: exit status {done.returncode}")
    return done.stdout or ""


if __name__ == "__main__":
    sys.exit(main())
