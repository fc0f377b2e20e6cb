"""A checkpoint's weights where they lie: known by the headers of its files, read a tensor or some rows at a time."""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from codd_lightning.errors import UserError

WHOLE = slice(None)
# Buffers of older Llamas, which are computed nowadays.
COMPUTED = re.compile(r"rotary_emb\.inv_freq$")


@dataclass(frozen=True)
class StoredTensor:
    """One tensor of a safetensors file.

    Attributes:
        file: where it lies.
        name: its own there.
        shape: of all of it.
    """

    file: Path
    name: str
    shape: tuple[int, ...]

    def read(self, dtype: torch.dtype, device: torch.device, rows: slice = WHOLE) -> Tensor:
        """Its rows in memory of their own; the others are not touched.

        Raises:
            UserError: the file is there no more.
        """
        with readable(self.file.parent), safe_open(self.file, framework="pt") as file:
            part: Tensor = file.get_slice(self.name)[rows]  # a view of the mapped file
            return part.to(device=device, dtype=dtype, copy=True)


def stored_weights(folder: Path, key_mapping: Mapping[str, str], model: nn.Module) -> dict[str, StoredTensor]:
    """Where each parameter of a model lies in a checkpoint, by `model.named_parameters()`.

    Args:
        folder: in Hugging Face format.
        key_mapping: from the checkpoint's names (regular expressions) to the model's.
        model: on whatever device; only its names and shapes are asked.

    Raises:
        UserError: the files cannot be read, or hold more, less or other than the model has.
    """
    found = {_renamed(name, key_mapping): tensor for name, tensor in _tensors(folder)}
    names: dict[nn.Parameter, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):  # tied ones may be stored by any of theirs
        names.setdefault(parameter, []).append(name)
    places = {some[0]: next((found[name] for name in some if name in found), None) for some in names.values()}
    known = {name for some in names.values() for name in some}
    shapes = {some[0]: tuple(parameter.shape) for parameter, some in names.items()}
    faults = {
        "missing": [name for name, place in places.items() if place is None],
        "unexpected": [name for name in found if name not in known and not COMPUTED.search(name)],
        "mismatched": [name for name, place in places.items() if place is not None and place.shape != shapes[name]],
    }
    for kind, keys in faults.items():
        if keys:
            raise UserError(f"{folder}: {kind} keys: {sorted(keys)[:4]}")
    return {name: place for name, place in places.items() if place is not None}


@contextmanager
def readable(folder: Path) -> Iterator[None]:
    """What goes wrong in here with a checkpoint's files is said in one line.

    Raises:
        UserError: it did.
    """
    try:
        yield
    except (SafetensorError, OSError, RuntimeError) as error:
        raise UserError(f"{folder}: the weights cannot be read: {str(error).splitlines()[0]}") from None


def _tensors(folder: Path) -> Iterator[tuple[str, StoredTensor]]:
    for file in _files(folder):
        with readable(folder), safe_open(file, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118  # it is no mapping
                yield name, StoredTensor(file, name, tuple(opened.get_slice(name).get_shape()))


def _files(folder: Path) -> list[Path]:
    whole, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if whole.is_file():
        return [whole]
    try:
        return sorted({folder / file for file in json.loads(index.read_text())["weight_map"].values()})
    except FileNotFoundError:
        raise UserError(f"{folder} holds neither {whole.name} nor {index.name}") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{index} is no index of weights ({type(error).__name__})") from None


def _renamed(name: str, key_mapping: Mapping[str, str]) -> str:
    for pattern, replacement in key_mapping.items():
        name, count = re.subn(pattern, replacement, name)
        if count:
            break
    return name
