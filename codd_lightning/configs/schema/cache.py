"""The evidence cache."""

from dataclasses import dataclass

from codd_lightning.configs.schema.fields import ranged


@dataclass
class Cache:
    """What `codd cache` writes, and what `codd train` reads if `path` names it."""

    path: str | None = None
    top_k: int | None = ranged("${oc.select:objective.evidence_top_k,null}", minimum=1)
    epochs: int = ranged("${trainer.max_epochs}", minimum=1)
    dtype: str = "float16"
    hidden: str | None = None
    before: bool = False
    shard_batches: int = ranged(64, minimum=1)
