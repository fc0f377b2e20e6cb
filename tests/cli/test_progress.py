"""What is said while a run goes on."""

import contextlib
import io
import logging
import re

import lightning as L
import pytest
from lightning.pytorch.demos.boring_classes import BoringModel

from codd_lightning.cli.console import log_to
from codd_lightning.cli.progress import TrainingLines, show_progress

log = logging.getLogger("codd_lightning")


@pytest.fixture(autouse=True)
def _messages_reach_the_test(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands that ran before have sent them elsewhere."""
    monkeypatch.setattr(log, "propagate", True)


@pytest.mark.filterwarnings("ignore")  # of the boring model
@pytest.mark.parametrize(("seconds", "lines"), [(0.0, 6), (3600.0, 0)])
def test_where_there_is_no_terminal_a_line_now_and_then_says_how_far_training_is(
    seconds: float, lines: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "codd_lightning")
    trainer = L.Trainer(
        accelerator="cpu", max_epochs=2, limit_train_batches=3, limit_val_batches=0, logger=False,
        enable_checkpointing=False, enable_model_summary=False, callbacks=[TrainingLines(seconds)],
    )  # fmt: skip
    trainer.fit(BoringModel())
    said = [record.message for record in caplog.records if record.name == "codd_lightning"]
    assert len(said) == lines
    for number, line in enumerate(said, 1):
        assert re.fullmatch(rf"training: step {number} of 6, less than a minute left", line)


@pytest.mark.parametrize(("seconds", "said"), [(0.0, [3, 5, 8]), (3600.0, [])])
def test_counted_work_says_where_there_is_no_terminal_how_far_it_is(
    seconds: float, said: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "codd_lightning")
    with show_progress(8, "step", "test", there=1, seconds=seconds) as advance:
        for done in (2, 2, 3):
            advance(done)
    assert caplog.messages == [f"test: step {reached} of 8, less than a minute left" for reached in said]


def test_what_was_done_before_says_nothing_of_the_time_left(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "codd_lightning")
    times = iter([0.0, 600.0])
    monkeypatch.setattr("time.monotonic", lambda: next(times))
    with show_progress(100, "example", "evidence", there=50) as advance:
        advance(10)
    assert caplog.messages == ["evidence: example 60 of 100, about 40 minutes left"]


def test_work_that_is_not_to_be_shown_is_silent(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "codd_lightning")
    with show_progress(2, "step", "test", shown=False, seconds=0.0) as advance:
        advance(1)
    assert caplog.messages == []
    assert "".join(capfd.readouterr()) == ""


def test_lines_go_to_what_stands_in_for_the_terminal() -> None:
    log_to(None)
    above_the_bar = io.StringIO()
    with contextlib.redirect_stdout(above_the_bar):  # as a progress bar does, later
        log.info("said")
    assert above_the_bar.getvalue() == "said\n"
