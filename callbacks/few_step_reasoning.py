"""Few-step reasoning at the end of every epoch: accuracies per step budget, and texts side by side."""

import logging
from collections.abc import Sequence
from typing import Any

import lightning as L

from codd_lightning.callbacks.at_epoch_end import AtEpochEnd, board_of
from codd_lightning.decoding import DecodingConfig
from codd_lightning.evaluation import (
    FewStepResult,
    accuracy_table,
    evaluate_few_step,
    render,
    side_by_side,
    tag,
)

log = logging.getLogger("codd_lightning")


class FewStepReasoning(AtEpochEnd):
    """Decodes held-out problems with every decoder at every budget, from the same canvas and seed.

    Logs strict and flexible accuracy, NFE and sample texts to TensorBoard, and prints a table. The
    problems come from the validation split, never from the test split.

    Args:
        decoders: the decoders to compare.
        steps_per_block: the budgets.
        examples: held-out problems.
        samples: how many of them are shown as texts.
        every_n_epochs: how often.
        most_share: of the training time that it may take.
        seed: of the decoding.
    """

    def __init__(
        self,
        decoders: Sequence[DecodingConfig],
        steps_per_block: Sequence[int],
        examples: int,
        samples: int,
        every_n_epochs: int,
        most_share: float,
        seed: int,
    ) -> None:
        super().__init__(every_n_epochs, most_share)
        self._decoders = list(decoders)
        self._budgets = list(steps_per_block)
        self._examples = examples
        self._samples = samples
        self._seed = seed

    def show(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        data: Any = trainer.datamodule  # type: ignore[attr-defined]  # set by fit
        holds: Any = module  # any of ours: it holds a backbone, and perhaps a circuit
        result = evaluate_few_step(
            holds.backbone,
            data.task,
            data.dataset("validation"),
            self._decoders,
            self._budgets,
            circuit=getattr(module, "circuit", None),
            examples=self._examples,
            batch_size=self._examples,
            seed=self._seed,
            split="validation",
        )
        self._log(trainer, result)

    def _log(self, trainer: L.Trainer, result: FewStepResult) -> None:
        title = f"epoch {trainer.current_epoch + 1}: strict accuracy on {self._examples} held-out problems, %"
        log.info("\n%s", render(accuracy_table(result.rows, title=title)))
        board = board_of(trainer)
        if board is None:
            return
        for row in result.rows:
            board.add_scalar(tag(row), row["value"], trainer.global_step)
            if row["name"] == "strict_accuracy":
                board.add_scalar(f"nfe/{tag(row).split('/', 1)[1]}", row["nfe"], trainer.global_step)
        for number in range(min(self._samples, self._examples)):
            board.add_text(f"samples/{number}", side_by_side(result.samples, number), trainer.global_step)
