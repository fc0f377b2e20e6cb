"""What logits and blocks must be for evidence to be made of them."""

import math

import torch
from torch import Tensor

from codd_lightning.circuits.errors import EvidenceError


def check_arguments(
    logits: Tensor,
    tokens: Tensor,
    mask_token_id: int,
    temperature: float,
    top_k: int | None,
    keep: Tensor | None,
    absent: Tensor | None,
    latent_potentials: Tensor | None,
) -> None:
    """Refuses arguments of `Evidence.from_logits` that do not fit together.

    Raises:
        EvidenceError: names the argument and its value.
    """
    if logits.dim() != 3 or not logits.is_floating_point():
        raise EvidenceError(f"logits must be floating (B, L, V), not {logits.dtype} of shape {tuple(logits.shape)}")
    shape = tuple(logits.shape[:2])
    for name, value in (("tokens", tokens), ("keep", keep), ("absent", absent)):
        if value is not None and tuple(value.shape) != shape:
            raise EvidenceError(f"{name} must have shape {shape} to fit the logits, not {tuple(value.shape)}")
    for name, value in (("tokens", tokens), ("keep", keep)):
        if value is not None and value.dtype != torch.long:
            raise EvidenceError(f"{name} must be long, not {value.dtype}")
    if absent is not None and absent.dtype != torch.bool:
        raise EvidenceError(f"absent must be bool, not {absent.dtype}")
    if latent_potentials is not None and tuple(latent_potentials.shape[:-1]) != shape:
        raise EvidenceError(f"latent_potentials must have shape {(*shape, 'N')}, not {tuple(latent_potentials.shape)}")
    if latent_potentials is not None and not bool((latent_potentials < torch.inf).all()):
        raise EvidenceError("latent_potentials must be finite or minus infinity")
    if not 0 < temperature < math.inf:
        raise EvidenceError(f"temperature must be above 0 and finite, not {temperature}")
    if top_k is not None and top_k < 1:
        raise EvidenceError(f"top_k must be at least 1, not {top_k}")
    for name, ids in (("tokens", tokens), ("keep", keep)):
        if ids is None:
            continue
        outside = (ids != mask_token_id) & ((ids < 0) | (ids >= logits.shape[-1]))
        if outside.any():
            row, position = outside.nonzero()[0].tolist()
            raise EvidenceError(
                f"{name}[{row}, {position}] is {ids[row, position].item()}, "
                f"outside the vocabulary of {logits.shape[-1]}"
            )


def check_mass(scores: Tensor, soft: Tensor) -> None:
    """Refuses `(B, L, V)` scores that leave a soft position, of `(B, L)`, no token.

    Raises:
        EvidenceError: names the first such position.
    """
    hopeless = soft & ~scores.amax(-1).isfinite()  # also catches NaN
    if hopeless.any():
        row, position = hopeless.nonzero()[0].tolist()
        raise EvidenceError(
            f"the logits of row {row}, position {position} leave no token with finite weight "
            "(all minus infinity besides the mask token, or NaN)"
        )
