"""Pickles of plain containers and numpy arrays, read without running anything of theirs.

A pickle is a program: it can call whatever it can import. Here it imports inert stand-ins for the few names
that numpy arrays need; any other name is refused.
"""

import math
import pickle
from collections.abc import Callable
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from codd_lightning.circuits.errors import CircuitError

DTYPES = {"f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1"}

Array = NDArray[Any]


def read_pickle(file: BinaryIO) -> Any:
    """The containers of a pickle, with a `PickledArray` wherever it has a numpy array.

    Raises:
        CircuitError: it asks for a name that arrays do not need.
        Exception: of any kind, where it is not a whole pickle.
    """
    return _Reader(file).load()


class _DType:
    """What numpy.dtype becomes: a name, nothing that numpy acts on before it is checked."""

    def __init__(self, name: Any = None, *_: Any) -> None:
        self.name = name
        self.order = "<"

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, tuple) and len(state) > 1 and state[1] in ("<", ">", "|", "="):
            self.order = state[1]

    def numpy(self) -> np.dtype[Any]:
        kind = self.name.lstrip("<>|=") if isinstance(self.name, str) else None
        if kind not in DTYPES:
            raise CircuitError(f"arrays of {self.name!r} are not allowed")
        return np.dtype(("<" if self.order in ("|", "=") else self.order) + kind)


class PickledArray:
    """What numpy.ndarray becomes: shape, type and bytes, made an array once they agree."""

    def __init__(self) -> None:
        self.array: Array | None = None

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran, data = state
        self.array = _from_bytes(data, dtype, shape, "F" if fortran else "C")


def _reconstruct(*_: Any) -> PickledArray:
    return PickledArray()


def _from_buffer(data: Any, dtype: Any, shape: Any, order: Any = "C") -> PickledArray:
    found = PickledArray()
    found.array = _from_bytes(data, dtype, shape, order)
    return found


def _scalar(dtype: Any, data: Any) -> Any:
    return _from_bytes(data, dtype, (1,), "C")[0].item()


def _encode(text: Any, encoding: Any) -> bytes:
    if not isinstance(text, str) or encoding != "latin1":
        raise CircuitError("only latin1 text can hold bytes")
    return text.encode("latin1")


def _from_bytes(data: Any, dtype: Any, shape: Any, order: Any) -> Array:
    if isinstance(data, str):
        data = data.encode("latin1")
    sizes = shape if isinstance(shape, tuple) else (shape,)
    if not isinstance(dtype, _DType) or not all(isinstance(n, int) and n >= 0 for n in sizes):
        raise CircuitError("an array without a shape or a type")
    kind = dtype.numpy()
    if (
        not isinstance(data, bytes | bytearray | pickle.PickleBuffer)
        or len(bytes(data)) != math.prod(sizes) * kind.itemsize
    ):
        raise CircuitError("an array whose bytes do not fit its shape")
    return np.frombuffer(bytes(data), dtype=kind).reshape(sizes, order="F" if order == "F" else "C")


def _stand_ins() -> dict[tuple[str, str], Callable[..., Any]]:
    names: dict[tuple[str, str], Callable[..., Any]] = {
        ("numpy", "ndarray"): PickledArray,
        ("numpy", "dtype"): _DType,
        ("_codecs", "encode"): _encode,
    }
    for core in ("numpy.core", "numpy._core"):
        names[f"{core}.multiarray", "_reconstruct"] = _reconstruct
        names[f"{core}.multiarray", "scalar"] = _scalar
        names[f"{core}.numeric", "_frombuffer"] = _from_buffer
    return names


class _Reader(pickle._Unpickler):  # in Python: the one in C can be made to allocate without bound
    """Reads pickles of plain containers and numpy arrays."""

    _NAMES = _stand_ins()

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file)

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._NAMES:
            raise CircuitError(f"it asks for {module}.{name}, which .jpc files of HMMs do not need: refused")
        return self._NAMES[module, name]
