"""Examples as batches of token ids."""

from codd_lightning.data.data_module import EncodedDataset, TaskDataModule
from codd_lightning.data.encoding import Batch, Encoded, collate, encode

__all__ = ["Batch", "Encoded", "EncodedDataset", "TaskDataModule", "collate", "encode"]
