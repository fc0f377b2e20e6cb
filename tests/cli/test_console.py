"""What is said while a run goes on."""

import logging
import re

import lightning as L
import pytest
from lightning.pytorch.demos.boring_classes import BoringModel

from codd_lightning.cli.console import ProgressLines


@pytest.mark.filterwarnings("ignore")  # of the boring model
@pytest.mark.parametrize(("seconds", "lines"), [(0.0, 6), (3600.0, 0)])
def test_where_there_is_no_terminal_a_line_now_and_then_says_how_far_training_is(
    seconds: float, lines: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "codd_lightning")
    trainer = L.Trainer(
        accelerator="cpu", max_epochs=2, limit_train_batches=3, limit_val_batches=0, logger=False,
        enable_checkpointing=False, enable_model_summary=False, callbacks=[ProgressLines(seconds)],
    )  # fmt: skip
    trainer.fit(BoringModel())
    said = [record.message for record in caplog.records if record.name == "codd_lightning"]
    assert len(said) == lines
    for number, line in enumerate(said, 1):
        assert re.fullmatch(rf"step {number} of 6, about 0 minutes of training left", line)
