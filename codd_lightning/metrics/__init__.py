"""torchmetrics, the same on any number of processes."""

from codd_lightning.metrics.likelihood import MASK_RATIO_BUCKETS, LikelihoodByMaskRatio, bucket_of

__all__ = ["MASK_RATIO_BUCKETS", "LikelihoodByMaskRatio", "bucket_of"]
