"""Examples as batches of token ids."""

from codd_lightning.data.data_module import EncodedDataset, TaskDataModule
from codd_lightning.data.encoding import Batch, Encoded, collate, encode
from codd_lightning.data.templates import Template

__all__ = ["Batch", "Encoded", "EncodedDataset", "TaskDataModule", "Template", "collate", "encode"]
