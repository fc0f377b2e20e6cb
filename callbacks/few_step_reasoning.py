"""Few-step reasoning at the end of every epoch: accuracies per step budget, and texts side by side."""

import logging
from collections.abc import Sequence
from typing import Any

import lightning as L
from lightning.pytorch.loggers import TensorBoardLogger

from codd_lightning.decoding import DecodingConfig
from codd_lightning.evaluation import FewStepResult, accuracy_table, evaluate_few_step, render, tag

log = logging.getLogger("codd_lightning")


class FewStepReasoning(L.Callback):
    """Decodes held-out problems with every decoder at every budget, from the same canvas and seed.

    Logs strict and flexible accuracy, NFE and sample texts to TensorBoard, and prints a table. The
    problems come from the validation split, never from the test split.

    Args:
        decoders: the decoders to compare.
        steps_per_block: the budgets.
        examples: held-out problems.
        samples: how many of them are shown as texts.
        every_n_epochs: how often.
        seed: of the decoding.
    """

    def __init__(
        self,
        decoders: Sequence[DecodingConfig],
        steps_per_block: Sequence[int],
        examples: int,
        samples: int,
        every_n_epochs: int,
        seed: int,
    ) -> None:
        self._decoders = list(decoders)
        self._budgets = list(steps_per_block)
        self._examples = examples
        self._samples = samples
        self._every = every_n_epochs
        self._seed = seed

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.sanity_checking or not trainer.is_global_zero or (trainer.current_epoch + 1) % self._every:
            return
        data: Any = trainer.datamodule  # type: ignore[attr-defined]  # set by fit
        module: Any = pl_module  # any of ours: it holds a backbone, and perhaps a circuit
        result = evaluate_few_step(
            module.backbone,
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
        self._show(trainer, result)

    def _show(self, trainer: L.Trainer, result: FewStepResult) -> None:
        title = f"epoch {trainer.current_epoch + 1}: strict accuracy on {self._examples} held-out problems, %"
        log.info("\n%s", render(accuracy_table(result.rows, title=title)))
        if not isinstance(trainer.logger, TensorBoardLogger):
            return
        board = trainer.logger.experiment
        for row in result.rows:
            board.add_scalar(tag(row), row["value"], trainer.global_step)
            if row["name"] == "strict_accuracy":
                board.add_scalar(f"nfe/{tag(row).split('/', 1)[1]}", row["nfe"], trainer.global_step)
        for number in range(min(self._samples, self._examples)):
            board.add_text(f"samples/{number}", side_by_side(result, number), trainer.global_step)


def side_by_side(result: FewStepResult, number: int) -> str:
    """One problem with the text of every decoder and budget, as a Markdown table."""
    samples = [decoded[number] for decoded in result.samples]
    lines = [
        f"**{samples[0].example.prompt}**",
        "",
        "| decoder | steps per block | strict | text |",
        "|---|---|---|---|",
    ]
    for sample in samples:
        mark = "✓" if sample.grade.strict else "✗"
        lines.append(f"| {sample.labels['decoder']} | {sample.labels['steps_per_block']} | {mark} | {sample.text} |")
    return "\n".join(lines)
