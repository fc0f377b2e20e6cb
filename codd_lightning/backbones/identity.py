"""Which backbone lies in a folder, told from its files alone."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

from codd_lightning.backbones.loading import FILES, locate
from codd_lightning.errors import UserError

SAMPLE = 4096  # bytes read of each tensor


def files_digest(path_or_repo: str | Path) -> str:
    """Digest of a backbone's files: configuration and tokenizer whole, and of the weights a sample.

    Of every tensor it sees name, type, shape and the 4 KiB in its middle: megabytes of gigabytes. Other training
    changes all of the tensors it touches, so it shows; a tensor changed in a few places outside the sample would not.
    Neither where the folder lies counts, nor how its weights are spread over files.

    Args:
        path_or_repo: as for `load_backbone`.

    Raises:
        UserError: nothing is there, or a weights file is not safetensors.
    """
    folder = locate(path_or_repo)
    digest = hashlib.sha256()
    files = sorted({file for pattern in FILES for file in folder.glob(pattern) if file.is_file()})
    for file in files:
        if file.suffix != ".safetensors" and not file.name.endswith(".index.json"):
            digest.update(file.name.encode() + hashlib.sha256(file.read_bytes()).digest())
    for name, sample in sorted(sample for file in files if file.suffix == ".safetensors" for sample in _samples(file)):
        digest.update(name.encode() + sample)
    return digest.hexdigest()[:16]


def _samples(file: Path) -> Iterator[tuple[str, bytes]]:
    """Name, type and shape of every tensor, and the middle of its bytes.

    The format: eight bytes for the length of the header, the header as JSON, the values.
    """
    try:
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            header = json.loads(stream.read(length if length <= file.stat().st_size else 0))
            for name, entry in header.items():
                if name == "__metadata__":
                    continue
                begin, end = entry["data_offsets"]
                stream.seek(8 + length + max(begin, (begin + end - SAMPLE) // 2))
                yield f"{name} {entry['dtype']} {entry['shape']}", stream.read(min(SAMPLE, end - begin))
    except (ValueError, AttributeError, KeyError, TypeError) as error:
        raise UserError(f"{file} is not a whole safetensors file ({type(error).__name__})") from None
