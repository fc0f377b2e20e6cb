"""Drawing from categorical distributions by inversion."""

import torch
from torch import Tensor


def draw(weights: Tensor, uniforms: Tensor) -> Tensor:
    """One index per row of `(..., K)` non-negative weights, by inversion of `(...)` uniforms in [0, 1)."""
    cumulative = weights.cumsum(-1)
    threshold = uniforms[..., None].to(cumulative.dtype) * cumulative[..., -1:]
    index = (cumulative <= threshold).sum(-1)
    # rounding can push the threshold to the total: then the last index with weight is meant
    last = weights.shape[-1] - 1 - (weights.flip(-1) > 0).int().argmax(-1)
    return torch.minimum(index, last)
