"""Circuits on disk and on the Hub: a folder with `config.json` and `model.safetensors`, or a PyJuice file."""

import json
import os
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from codd_lightning.circuits.circuit import CIRCUITS, Circuit
from codd_lightning.circuits.errors import CircuitError
from codd_lightning.circuits.jpc import load_jpc

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"


def save_circuit(circuit: Circuit, folder: str | Path) -> None:
    """Writes a circuit as a portable folder; an interrupted save leaves an older circuit whole.

    Args:
        circuit: any registered structure.
        folder: made if missing; other files in it are left alone.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    config = {"circuit": circuit.structure, **circuit.config()}
    weights = {name: value.detach().cpu().contiguous() for name, value in circuit.state_dict().items()}
    beside = [folder / f".{name}.{os.getpid()}.partial" for name in (WEIGHTS_FILE, CONFIG_FILE)]
    try:
        save_file(weights, beside[0], metadata={"format": "pt"})
        beside[1].write_text(json.dumps(config, indent=2) + "\n")
        old = folder / f".{WEIGHTS_FILE}.{os.getpid()}.old"
        if (folder / WEIGHTS_FILE).is_file():
            os.link(folder / WEIGHTS_FILE, old)
        beside.append(old)
        os.replace(beside[0], folder / WEIGHTS_FILE)
        try:
            os.replace(beside[1], folder / CONFIG_FILE)
        except BaseException:
            if old.exists():
                os.replace(old, folder / WEIGHTS_FILE)
            raise
    finally:
        for path in beside:
            path.unlink(missing_ok=True)


def load_circuit(path_or_repo: str | Path) -> Circuit:
    """Reads a circuit from a folder, a PyJuice `.jpc` file, or the Hugging Face Hub by its id.

    A folder without `config.json` that holds one `.jpc` file, as published PyJuice circuits do, is read from that.

    Raises:
        CircuitError: nothing is there, or what is there is not a whole circuit.
    """
    folder = _find(path_or_repo)
    if folder.is_file():
        return load_jpc(folder)
    config = _read_config(folder / CONFIG_FILE)
    structure = config.pop("circuit", None)
    if not isinstance(structure, str) or structure not in CIRCUITS:
        raise CircuitError(f"{folder / CONFIG_FILE}: circuit {structure!r} is not one of {', '.join(sorted(CIRCUITS))}")
    try:
        circuit = CIRCUITS[structure](**config)
    except (TypeError, ValueError, OverflowError, MemoryError, RuntimeError) as error:
        raise CircuitError(f"{folder / CONFIG_FILE} does not describe a circuit {structure!r}: {error}") from None
    weights_path = folder / WEIGHTS_FILE
    if not weights_path.is_file():
        raise CircuitError(f"{folder} holds no {WEIGHTS_FILE}")
    try:
        weights = load_file(weights_path)
    except (SafetensorError, OSError) as error:
        raise CircuitError(f"{weights_path} is not a whole safetensors file: {error}") from None
    expected = {name: tuple(value.shape) for name, value in circuit.state_dict().items()}
    found = {name: tuple(value.shape) for name, value in weights.items()}
    if expected != found:
        raise CircuitError(f"{weights_path} does not fit its {CONFIG_FILE}: expected {expected}, found {found}")
    dtypes = {value.dtype for value in weights.values()}
    if not all(dtype.is_floating_point for dtype in dtypes):
        raise CircuitError(f"{weights_path} holds {sorted(map(str, dtypes))}, not floating numbers")
    if len(dtypes) == 1:
        circuit = circuit.to(dtypes.pop())
    circuit.load_state_dict(weights)
    return circuit


def _find(path_or_repo: str | Path) -> Path:
    path = Path(path_or_repo)
    if path.is_dir():
        return _folder_or_jpc(path)
    if path.is_file() and path.suffix == ".jpc":
        return path
    if path.exists():
        raise CircuitError(f"{path} is a file; a circuit is a folder with {CONFIG_FILE} and {WEIGHTS_FILE}, or a .jpc")
    name = str(path_or_repo)
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise CircuitError(f"there is no circuit at {path}")
    from huggingface_hub import snapshot_download  # not before it is needed: it takes time to import
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return _folder_or_jpc(Path(snapshot_download(name, allow_patterns=[CONFIG_FILE, WEIGHTS_FILE, "*.jpc"])))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise CircuitError(
            f"there is no circuit at {path}, and the Hub did not give {name} ({type(error).__name__})"
        ) from None


def _folder_or_jpc(folder: Path) -> Path:
    """The folder itself, or the one `.jpc` file of a folder without a config."""
    files = sorted(folder.glob("*.jpc"))
    if (folder / CONFIG_FILE).exists() or not files:
        return folder
    if len(files) > 1:
        raise CircuitError(f"{folder} holds {len(files)} .jpc files: name one of them")
    return files[0]


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text())
    except FileNotFoundError:
        raise CircuitError(f"{path.parent} holds no {CONFIG_FILE}") from None
    except OSError as error:
        raise CircuitError(f"{path} cannot be read: {error.strerror}") from None
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise CircuitError(f"{path} is not JSON: {error}") from None
    if not isinstance(config, dict):
        raise CircuitError(f"{path} must hold a JSON object, not {type(config).__name__}")
    return config
