"""`codd import` and `codd export`: circuits from and to files that other programs read."""

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from codd_lightning.circuits import HMM, Circuit, from_description, load_circuit, load_jpc, save_circuit, save_jpc
from codd_lightning.circuits.folder import BUNDLED
from codd_lightning.errors import UserError

JPC_NAME = "circuit.jpc"
CARD_NAME = "README.md"


def import_command(args: argparse.Namespace) -> int:
    """Reads a PyJuice file and writes a portable folder."""
    _require_room(args.folder, overwrite=args.overwrite)
    circuit = load_jpc(args.file)
    with _writing(args.folder):
        save_circuit(circuit, args.folder)
    print(f"{args.folder}: {_describe(circuit)}")
    return 0


def export_command(args: argparse.Namespace) -> int:
    """Reads the circuit of a run or of a folder and writes it by itself."""
    _require_room(args.folder, overwrite=args.overwrite)
    circuit = circuit_of(args.source)
    if args.format == "jpc":
        if type(circuit) is not HMM:  # one that knows the context would lose what it knows
            raise UserError(f"--format jpc is for HMMs; {args.source} is a circuit {circuit.structure!r}")
        with _writing(args.folder):
            Path(args.folder).mkdir(parents=True, exist_ok=True)
            save_jpc(circuit, Path(args.folder) / JPC_NAME)
    else:
        with _writing(args.folder):
            save_circuit(circuit, args.folder)
            if (card := _folder_of(args.source) / CARD_NAME).is_file():
                (Path(args.folder) / CARD_NAME).write_bytes(card.read_bytes())
    print(f"{args.folder}: {_describe(circuit)}")
    return 0


@contextmanager
def _writing(folder: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"{folder} cannot be written: {error.strerror}") from None


def _require_room(folder: str, overwrite: bool) -> None:
    path = Path(folder)
    if path.exists() and not path.is_dir():
        raise UserError(f"{folder} is a file; a folder is expected")
    if path.is_dir() and any(path.iterdir()) and not overwrite:
        raise UserError(f"{folder} is not empty: choose another folder, or add --overwrite")


def circuit_of(source: str) -> Circuit:
    """The circuit of a run's folder, of a checkpoint, or of whatever `load_circuit` reads."""
    folder = _folder_of(source)
    if Path(source).suffix == ".ckpt" and Path(source).exists():
        return _circuit_of_checkpoint(Path(source))
    if folder == Path(source) and (folder / "manifest.json").is_file():
        raise UserError(f"{source} is a run without a circuit: let it finish, if it trains one, or name a checkpoint")
    return load_circuit(folder if folder.is_dir() else source)


def _folder_of(source: str) -> Path:
    """Where a circuit's files would lie: in a run's folder, or in the one that is named."""
    if source in BUNDLED:
        return BUNDLED[source]
    run = Path(source) / "circuit"
    return run if run.is_dir() else Path(source)


def _circuit_of_checkpoint(path: Path) -> Circuit:
    from codd_lightning.cli.checkpoint_files import read_checkpoint  # takes Lightning, which takes seconds

    checkpoint = read_checkpoint(path)
    if "circuit" not in checkpoint:
        raise UserError(f"{path} is a checkpoint without a circuit")
    circuit = from_description(checkpoint["circuit"], path)
    prefix = "circuit."
    weights = {k.removeprefix(prefix): v for k, v in checkpoint["state_dict"].items() if k.startswith(prefix)}
    circuit.load_state_dict(weights)
    return circuit


def _describe(circuit: Circuit) -> str:
    return f"{circuit.structure}, {circuit.summary()}"
