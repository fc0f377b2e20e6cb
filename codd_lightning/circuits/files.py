"""Circuits on disk and on the Hub: a portable folder, or a PyJuice file."""

from pathlib import Path

from codd_lightning.circuits.circuit import Circuit, read_circuit, write_circuit
from codd_lightning.circuits.errors import CircuitError
from codd_lightning.circuits.folder import CONFIG_FILE, WEIGHTS_FILE, find_folder
from codd_lightning.circuits.jpc import load_jpc


def save_circuit(circuit: Circuit, folder: str | Path) -> None:
    """Writes a circuit as a portable folder; an interrupted save leaves an older circuit whole.

    Args:
        circuit: any registered structure.
        folder: made if missing; other files in it are left alone.
    """
    write_circuit(circuit, Path(folder))


def load_circuit(path_or_repo: str | Path) -> Circuit:
    """Reads a circuit: a bundled one ("codd_tiny_one_step"), a folder, a PyJuice `.jpc` file, or the Hub's, by its id.

    A folder without `config.json` that holds one `.jpc` file, as published PyJuice circuits do, is read from that.

    Raises:
        CircuitError: nothing is there, or what is there is not a whole circuit.
    """
    path = find_folder(path_or_repo)
    if path.is_dir() and not (path / CONFIG_FILE).exists():
        files = sorted(path.glob("*.jpc"))
        if len(files) > 1:
            raise CircuitError(f"{path} holds {len(files)} .jpc files: name one of them")
        path = files[0] if files else path
    if path.is_dir():
        return read_circuit(path)
    if path.suffix != ".jpc":
        raise CircuitError(f"{path} is a file; a circuit is a folder with {CONFIG_FILE} and {WEIGHTS_FILE}, or a .jpc")
    return load_jpc(path)
