"""How a few problems are decoded, step by step, at the end of every epoch."""

from collections.abc import Sequence
from typing import Any

import lightning as L

from codd_lightning.callbacks.at_epoch_end import AtEpochEnd, board_of
from codd_lightning.data import TaskDataModule
from codd_lightning.decoding import DecodingConfig
from codd_lightning.evaluation import decode_traces


class DenoisingTraces(AtEpochEnd):
    """The canvas after every step of every decoder, as text; what is new is marked by who chose it.

    Args:
        data: where the problems come from: the validation split.
        decoders: the decoders to watch.
        steps_per_block: the budgets.
        examples: problems.
        every_n_epochs: how often.
        most_share: of the training time that it may take.
        seed: of the decoding.
    """

    def __init__(
        self,
        data: TaskDataModule,
        decoders: Sequence[DecodingConfig],
        steps_per_block: Sequence[int],
        examples: int,
        every_n_epochs: int,
        most_share: float,
        seed: int,
    ) -> None:
        super().__init__(every_n_epochs, most_share)
        self._data = data
        self._decoders = list(decoders)
        self._budgets = list(steps_per_block)
        self._examples = examples
        self._seed = seed

    def show(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        board = board_of(trainer)
        if board is None:
            return
        holds: Any = module  # any of ours: it holds a backbone, and perhaps a circuit
        traces = decode_traces(
            holds.backbone,
            self._data.dataset("validation"),
            self._decoders,
            self._budgets,
            circuit=getattr(module, "circuit", None),
            examples=self._examples,
            seed=self._seed,
        )
        for name, text in traces.items():
            board.add_text(f"traces/{name}", text, trainer.global_step)
