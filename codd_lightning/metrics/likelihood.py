"""How well the true tokens are predicted, by how much of their block is masked."""

from itertools import pairwise

import torch
from torch import Tensor
from torchmetrics import Metric

# Edges of the mask-ratio buckets: (0, 0.25], (0.25, 0.5], (0.5, 0.75], (0.75, 1].
MASK_RATIO_EDGES = (0.0, 0.25, 0.5, 0.75, 1.0)
MASK_RATIO_BUCKETS = tuple(pairwise(MASK_RATIO_EDGES))


def bucket_of(mask_ratio: Tensor) -> Tensor:
    """Number of the bucket that each mask ratio in (0, 1] falls into."""
    inner = torch.tensor(MASK_RATIO_EDGES[1:-1], device=mask_ratio.device)
    return torch.bucketize(mask_ratio, inner)


class LikelihoodByMaskRatio(Metric):
    """Factorized and coupled NLL, and the gain between them, in nats per masked token, by bucket.

    Sums over processes, so that every world size reports the same.
    """

    full_state_update = False

    factorized: Tensor
    coupled: Tensor
    tokens: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ("factorized", "coupled", "tokens"):
            start = torch.zeros(len(MASK_RATIO_BUCKETS), dtype=torch.float64)
            self.add_state(name, default=start, dist_reduce_fx="sum")

    def update(self, factorized: Tensor, coupled: Tensor, tokens: Tensor, mask_ratio: Tensor) -> None:
        """Adds blocks.

        Args:
            factorized, coupled: `(M,)` log-likelihoods of the counted tokens, nats.
            tokens: `(M,)`, how many were counted.
            mask_ratio: `(M,)` in (0, 1].
        """
        bucket = bucket_of(mask_ratio)
        for state, values in ((self.factorized, factorized), (self.coupled, coupled), (self.tokens, tokens)):
            state.index_add_(0, bucket, values.to(state.dtype))

    def compute(self) -> dict[str, Tensor]:
        """Values by tag, such as `cll_gain/0.50-0.75`, and over all; buckets without tokens are left out."""
        tokens = self.tokens.sum().clamp_min(1)
        values = {
            "nll_factorized": (-self.factorized.sum() / tokens).float(),
            "nll_coupled": (-self.coupled.sum() / tokens).float(),
        }
        for i, (low, high) in enumerate(MASK_RATIO_BUCKETS):
            if self.tokens[i] > 0:
                place = f"{low:.2f}-{high:.2f}"
                values[f"nll_factorized/{place}"] = (-self.factorized[i] / self.tokens[i]).float()
                values[f"nll_coupled/{place}"] = (-self.coupled[i] / self.tokens[i]).float()
                values[f"cll_gain/{place}"] = ((self.coupled[i] - self.factorized[i]) / self.tokens[i]).float()
        return values
