"""A circuit's folder: `config.json` and `model.safetensors`, written whole, read without trust. Knows no circuit."""

import json
import os
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from codd_lightning.circuits.errors import CircuitError

BUNDLED = {"codd_tiny_one_step": Path(__file__).parent / "codd_tiny_one_step"}
CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"


def write_folder(folder: Path, config: dict[str, Any], weights: dict[str, Tensor]) -> None:
    """Writes both files; an interrupted write leaves older ones whole. Other files are left alone."""
    folder.mkdir(parents=True, exist_ok=True)
    beside = [folder / f".{name}.{os.getpid()}.partial" for name in (WEIGHTS_FILE, CONFIG_FILE)]
    try:
        save_file(
            {name: value.detach().cpu().contiguous() for name, value in weights.items()}, beside[0], {"format": "pt"}
        )
        beside[1].write_text(json.dumps(config, indent=2) + "\n")
        beside[0].chmod(beside[1].stat().st_mode)  # safetensors lets nobody else read it
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


def read_config(folder: Path) -> dict[str, Any]:
    """The values of `config.json`.

    Raises:
        CircuitError: it is missing, or not a JSON object.
    """
    path = folder / CONFIG_FILE
    try:
        config = json.loads(path.read_text())
    except FileNotFoundError:
        inside = folder / "circuit"
        mend = f": name {inside}" if (inside / CONFIG_FILE).is_file() else ""
        raise CircuitError(f"{folder} holds no {CONFIG_FILE}{mend}") from None
    except OSError as error:
        raise CircuitError(f"{path} cannot be read: {error.strerror}") from None
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise CircuitError(f"{path} is not JSON: {error}") from None
    if not isinstance(config, dict):
        raise CircuitError(f"{path} must hold a JSON object, not {type(config).__name__}")
    return config


def read_weights(folder: Path, expected: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of `model.safetensors`, of the names and shapes of `expected`.

    Raises:
        CircuitError: the file is missing, damaged, or holds something else.
    """
    path = folder / WEIGHTS_FILE
    if not path.is_file():
        raise CircuitError(f"{folder} holds no {WEIGHTS_FILE}")
    try:
        weights = load_file(path)
    except (SafetensorError, OSError) as error:
        raise CircuitError(f"{path} is not a whole safetensors file: {error}") from None
    wanted = {name: tuple(value.shape) for name, value in expected.items()}
    found = {name: tuple(value.shape) for name, value in weights.items()}
    if wanted != found:
        name = next(name for name in {**wanted, **found} if wanted.get(name) != found.get(name))
        shapes = f"{name} is {found.get(name, 'missing')} and not {wanted.get(name, 'expected')}"
        raise CircuitError(f"{path} does not fit its {CONFIG_FILE}: {shapes}")
    for dtype in {value.dtype for value in weights.values()}:
        if not dtype.is_floating_point:
            raise CircuitError(f"{path} holds {dtype}, not floating numbers")
    return weights


def find_folder(path_or_repo: str | Path) -> Path:
    """A bundled folder, one here, or the Hub's, downloaded; or one file, as it is.

    Raises:
        CircuitError: nothing is there.
    """
    if isinstance(path_or_repo, str) and path_or_repo in BUNDLED:  # a path, or one written ./NAME, is a folder here
        return BUNDLED[path_or_repo]
    path = Path(path_or_repo)
    if path.exists():
        return path
    name = str(path_or_repo)
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise CircuitError(f"there is no circuit at {name}; bundled ones: {', '.join(BUNDLED)}")
    from huggingface_hub import snapshot_download  # not before it is needed: it takes time to import
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, allow_patterns=[CONFIG_FILE, WEIGHTS_FILE, "*.jpc"]))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise CircuitError(
            f"there is no circuit at {path}, and the Hub did not give {name} ({type(error).__name__}); "
            f"bundled ones: {', '.join(BUNDLED)}"
        ) from None
