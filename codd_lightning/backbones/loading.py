"""Loading a backbone from a folder or the Hub, without running any code that comes with it."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import PreTrainedTokenizerBase

from codd_lightning.backbones.backbone import Backbone, device_of
from codd_lightning.backbones.block_causal import BlockCausalBackbone
from codd_lightning.backbones.families import FAMILIES, Family
from codd_lightning.backbones.placement import placement
from codd_lightning.backbones.stored import readable, stored_weights
from codd_lightning.errors import UserError

BUNDLED = {"codd_tiny": Path(__file__).parent / "codd_tiny"}
KERNELS = ("sdpa", "eager")
BLOCK_CAUSAL = "block_causal"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}
FILES = ["*.json", "*.safetensors", "*.txt", "*.model"]


def load_backbone(
    path_or_repo: str | Path,
    dtype: str | torch.dtype = "float32",
    device: str | torch.device = "cpu",
    attention: str = "sdpa",
    block_length: int | None = None,
    device_map: str | None = None,
    quantization: str | None = None,
) -> Backbone:
    """Loads a masked-diffusion backbone: LLaDA, Dream, a2d, SDAR, Fast-dLLM v2, ModernBERT, or a bidirectional Llama.

    Args:
        path_or_repo: "codd_tiny" (bundled), a folder, or a Hub id.
        dtype: of the weights; "auto" is bfloat16 where the hardware multiplies it natively, else float32.
        device: where they go; "meta" reads none: a backbone that knows its tokens, its shape and where its weights lie
            (`stored`), and predicts nothing until it is given them.
        attention: the kernel of full attention, "sdpa" or "eager"; "block_causal" lets a token see its own block and
            all before it (bd3lm, SDAR, Fast-dLLM v2).
        block_length: tokens of a block, for block-causal attention only.
        device_map: "auto" spreads the layers over all GPUs and the CPU (package accelerate); None for `device`.
        quantization: "8bit" or "4bit" linear layers (package bitsandbytes), which cannot be trained; None for neither.

    Raises:
        UserError: nothing is there, an option has no such value or lacks its package, the format is unknown, weights
            are missing or left over, the mask token cannot be told, or the loaded model turns out to be causal.
    """
    if attention not in (*KERNELS, BLOCK_CAUSAL):
        raise UserError(f"attention={attention} is not one of {', '.join((*KERNELS, BLOCK_CAUSAL))}")
    if (attention == BLOCK_CAUSAL) != (block_length is not None):
        raise UserError(
            f"attention={attention} with block_length={block_length}: {BLOCK_CAUSAL} has blocks, others none"
        )
    if block_length is not None and block_length < 1:
        raise UserError(f"block_length={block_length} must be at least 1")
    _require_device(device)
    torch_dtype = _resolve_dtype(dtype, torch.device(device))
    placed = placement(device, device_map, quantization, torch_dtype)
    folder = locate(path_or_repo)
    original = _read_json(folder / "config.json")
    family = FAMILIES.get(str(original.get("model_type", "")))
    if family is None:
        raise UserError(
            f"{folder}: model_type {original.get('model_type')!r} is not one of {', '.join(sorted(FAMILIES))}"
        )
    if family.head is not None and attention == BLOCK_CAUSAL:
        raise UserError(
            f"attention={attention}: {folder} holds a masked language model, which sees everything: use sdpa"
        )
    tokenizer = _load_tokenizer(folder, family)
    without_weights = torch.device(device).type == "meta"
    kernel = "sdpa" if attention == BLOCK_CAUSAL else attention
    model = _load_model(folder, family, original, torch_dtype, kernel, without_weights, placed)
    if not without_weights and not placed:
        torch.nn.Module.to(model, device)
    make = Backbone if block_length is None else partial(BlockCausalBackbone, block_length=block_length)
    backbone = make(
        model,
        mask_token_id=_mask_token_id(folder, original, tokenizer),
        eos_token_ids=_eos_token_ids(folder, family, original, tokenizer),
        tokenizer=tokenizer,
        shifted=family.shifted,
        head=family.head,
    )
    backbone.original_config = original
    backbone.stored = stored_weights(folder, family.key_mapping, model) if without_weights else None
    backbone.eval()
    if not 0 <= backbone.mask_token_id < backbone.vocab_size:
        raise UserError(
            f"{folder}: mask_token_id {backbone.mask_token_id} has no embedding: there are {backbone.vocab_size}"
        )
    if not without_weights:
        require_bidirectional(backbone)
    return backbone


def locate(path_or_repo: str | Path) -> Path:
    """The local folder of a bundled, local or Hub backbone; downloads the latter's data files only."""
    if str(path_or_repo) in BUNDLED:
        return BUNDLED[str(path_or_repo)]
    path = Path(path_or_repo)
    if path.is_dir():
        return path
    name = str(path_or_repo)
    if path.exists() or name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise UserError(f"there is no backbone folder at {path}; bundled ones: {', '.join(BUNDLED)}")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, allow_patterns=FILES))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise UserError(
            f"there is no backbone folder at {path}, and the Hub did not give {name} ({type(error).__name__})"
        ) from None


@torch.no_grad()
def require_bidirectional(backbone: Backbone) -> None:
    """Checks that a later token changes an earlier logit, which transformers before 5.2 silently denies.

    Raises:
        UserError: it does not.
    """
    width = min(4, backbone.block_length or 4)
    if width == 1:
        return  # blocks of one token are causal by right
    first = next(i for i in range(backbone.vocab_size) if i != backbone.mask_token_id)
    device = device_of(backbone)
    canvas = torch.full((2, width), backbone.mask_token_id, device=device)
    canvas[1, -1] = first
    logits = backbone(canvas)[:, 0]
    if torch.equal(logits[0], logits[1]):
        raise UserError(
            f"the loaded {type(backbone.model).__name__} is causal: a later token changes no earlier logit "
            f"(transformers {transformers.__version__}; 5.4 or later is needed)"
        )


def _require_device(device: str | torch.device) -> None:
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError):  # torch says it both ways
        here = ", ".join(["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))])
        raise UserError(f"device={device} is not one of this machine, which has {here}") from None


def multiplies_bfloat16(on_gpu: bool) -> bool:
    """Whether the hardware multiplies bfloat16 natively; where it does not, float32 is many times faster."""
    if on_gpu:
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported()


def _resolve_dtype(dtype: str | torch.dtype, device: torch.device) -> torch.dtype:
    if isinstance(dtype, torch.dtype) and dtype in DTYPES.values():
        return dtype
    if dtype == "auto":
        on_gpu = device.type == "cuda" or (device.type == "meta" and torch.cuda.is_available())
        return torch.bfloat16 if multiplies_bfloat16(on_gpu) else torch.float32
    if dtype not in DTYPES:
        raise UserError(f"dtype={dtype} is not one of auto, {', '.join(DTYPES)}")
    return DTYPES[dtype]


def _load_model(
    folder: Path,
    family: Family,
    original: dict[str, Any],
    dtype: torch.dtype,
    attention: str,
    without_weights: bool,
    placed: dict[str, Any],
) -> transformers.PreTrainedModel:
    model_class = getattr(transformers, family.model_class)
    try:
        arguments = family.config(original)
    except KeyError as error:
        raise UserError(f"{folder / 'config.json'} lacks {error}") from None
    for name in ("architectures", "auto_map", "model_type", "torch_dtype", "dtype", "transformers_version"):
        arguments.pop(name, None)
    try:
        config = model_class.config_class(**{**arguments, "is_causal": False, "use_cache": False})
    except Exception as error:  # transformers checks fields by exceptions of many kinds
        raise UserError(f"{folder / 'config.json'}: {str(error).splitlines()[0]}") from None
    if not list(folder.glob("*.safetensors")):
        raise UserError(f"{folder} holds no safetensors weights")
    if without_weights:
        return _without_weights(model_class, config, dtype, attention)
    verbosity = transformers.logging.get_verbosity()
    transformers.logging.disable_progress_bar()
    transformers.logging.set_verbosity_error()  # what does not fit is reported below
    try:
        with readable(folder):
            model, info = model_class.from_pretrained(
                folder,
                config=config,
                dtype=dtype,
                attn_implementation=attention,
                key_mapping=dict(family.key_mapping) or None,
                use_safetensors=True,
                output_loading_info=True,
                **placed,
            )
    finally:
        transformers.logging.set_verbosity(verbosity)
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if info.get(kind):
            raise UserError(f"{folder}: {kind.replace('_', ' ')}: {sorted(map(str, info[kind]))[:4]}")
    return model


def _without_weights(
    model_class: Any, config: transformers.PretrainedConfig, dtype: torch.dtype, attention: str
) -> transformers.PreTrainedModel:
    """A model whose parameters are on torch's meta device; what it computes of its configuration is there."""
    with torch.device("meta"):
        model: transformers.PreTrainedModel = model_class._from_config(
            config, dtype=dtype, attn_implementation=attention
        )
    for module in model.modules():
        if any(True for _ in module.buffers(recurse=False)):
            for name, buffer in module.named_buffers(recurse=False):
                module.register_buffer(name, torch.empty_like(buffer, device="cpu"), persistent=False)
            model._init_weights(module)  # as transformers fills them, which makes all its models this way
    return model


def _load_tokenizer(folder: Path, family: Family) -> PreTrainedTokenizerBase | None:
    if not any((folder / name).is_file() for name in ("tokenizer.json", "vocab.json", "tokenizer_config.json")):
        return None
    try:
        return getattr(transformers, family.tokenizer_class).from_pretrained(folder)
    except Exception as error:  # tokenizers raises bare Exception
        raise UserError(f"{folder}: the tokenizer cannot be read: {error}") from None


def _mask_token_id(folder: Path, config: dict[str, Any], tokenizer: PreTrainedTokenizerBase | None) -> int:
    if config.get("mask_token_id") is not None:
        return int(config["mask_token_id"])
    if tokenizer is not None:
        for token in (tokenizer.mask_token, "<|mask|>", "<|mdm_mask|>", "|<MASK>|"):
            if token is not None and token in tokenizer.get_vocab():
                return tokenizer.get_vocab()[token]
    raise UserError(f"{folder}: neither config.json nor the tokenizer names a mask token")


def _eos_token_ids(
    folder: Path, family: Family, config: dict[str, Any], tokenizer: PreTrainedTokenizerBase | None
) -> list[int]:
    ids: list[int] = []
    for source in (config, _read_json(folder / "generation_config.json", required=False)):
        value = source.get("eos_token_id")
        ids += value if isinstance(value, list) else [value] if value is not None else []
    if tokenizer is not None:
        vocabulary = tokenizer.get_vocab()
        ids += [vocabulary[token] for token in (tokenizer.eos_token, *family.end_tokens) if token in vocabulary]
    return list(dict.fromkeys(ids))


def _read_json(path: Path, required: bool = True) -> dict[str, Any]:
    if not path.is_file():
        if required:
            raise UserError(f"{path.parent} holds no {path.name}")
        return {}
    try:
        value = json.loads(path.read_text())
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise UserError(f"{path} must hold a JSON object, not {type(value).__name__}")
    return value
