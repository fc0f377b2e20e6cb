"""Examples as batches of token ids, and as blocks with stored evidence."""

from codd_lightning.data.blocks import Blocks
from codd_lightning.data.cache_folder import CacheFolder, Shard
from codd_lightning.data.cached_data_module import CachedDataModule
from codd_lightning.data.data_module import EncodedDataset, TaskDataModule
from codd_lightning.data.encoding import Batch, Encoded, collate, encode
from codd_lightning.data.evidence_cache import RowFormat
from codd_lightning.data.sampler import EpochOrder
from codd_lightning.data.templates import Template

__all__ = [
    "Batch",
    "Blocks",
    "CacheFolder",
    "CachedDataModule",
    "Encoded",
    "EncodedDataset",
    "EpochOrder",
    "RowFormat",
    "Shard",
    "TaskDataModule",
    "Template",
    "collate",
    "encode",
]
