"""Where weights go and how many bits they take, by transformers' own means."""

import logging
from importlib.util import find_spec
from typing import Any

import torch
import transformers

from codd_lightning.errors import UserError

QUANTIZATIONS = ("8bit", "4bit")


def placement(
    device: str | torch.device, device_map: str | None, quantization: str | None, dtype: torch.dtype
) -> dict[str, Any]:
    """Arguments of `from_pretrained` that spread a model over devices, or hold its matrices in 8 or 4 bits.

    Args:
        device: where it goes as a whole.
        device_map: "auto" spreads it over all GPUs and then the CPU; None for `device`.
        quantization: "8bit" (LLM.int8) or "4bit" (NF4, products in `dtype`), of linear layers; None for neither.
        dtype: of everything else.

    Raises:
        UserError: an option has no such value, the two places contradict each other, or a package is missing.
    """
    if device_map not in (None, "auto"):
        raise UserError(f"backbone.device_map={device_map} is not auto, or null for backbone.device")
    if quantization not in (None, *QUANTIZATIONS):
        raise UserError(
            f"backbone.quantization={quantization} is not one of {', '.join(QUANTIZATIONS)}, or null for none"
        )
    if device_map is not None and torch.device(device).type != "cpu":
        raise UserError(
            f"backbone.device_map={device_map} chooses devices by itself: leave out backbone.device={device}"
        )
    if torch.device(device).type == "meta" and quantization is not None:
        raise UserError(f"backbone.quantization={quantization} needs whole weights: use trainer=cpu, gpu or ddp")
    arguments: dict[str, Any] = {}
    if device_map is not None:
        _require("accelerate", f"backbone.device_map={device_map}")
        arguments["device_map"] = device_map
    if quantization is not None:
        for package in ("accelerate", "bitsandbytes"):
            _require(package, f"backbone.quantization={quantization}")
        # it says at every product that int8 is multiplied in float16
        logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
        arguments.setdefault("device_map", {"": str(device)})
        arguments["quantization_config"] = transformers.BitsAndBytesConfig(
            load_in_8bit=quantization == "8bit",
            load_in_4bit=quantization == "4bit",
            bnb_4bit_quant_type="nf4",
            bnb_4bit_compute_dtype=dtype,
        )
    return arguments


def _require(package: str, option: str) -> None:
    if find_spec(package) is None:
        raise UserError(f"{option} needs the package {package}: pip install {package}")
