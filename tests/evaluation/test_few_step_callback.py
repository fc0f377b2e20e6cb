"""The callback reports what the evaluation measures, of held-out problems, when it is asked to."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from transformers import PreTrainedTokenizerFast
from whole_data import EOS, data_of

from codd_lightning.callbacks.few_step_reasoning import FewStepReasoning
from codd_lightning.decoding import DecodingConfig

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*in eval mode at the start of training"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
]

LENGTH = 4
TRAIN = [(f"w{i}", f"w{i} w{i}") for i in range(8)]
HELD_OUT = [(f"w{i}", f"w{i} w{i}") for i in range(10, 15)]


class Idle(L.LightningModule):
    """Holds a backbone and trains nothing."""

    def __init__(self, backbone: torch.nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return self.weight * 0.0

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        pass

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.fixture
def scalars(
    tmp_path: Path,
    listed_task: Callable[..., Any],
    words: PreTrainedTokenizerFast,
    known_answers: Callable[..., Any],
) -> Callable[..., dict[str, list[tuple[int, float]]]]:
    """Fits for some epochs and reads back `{tag: [(step, value), ...]}`; one held-out problem in five is not known."""

    def fit(every_n_epochs: int, epochs: int) -> dict[str, list[tuple[int, float]]]:
        data = data_of(listed_task(train=TRAIN, validation=HELD_OUT), words, LENGTH, LENGTH, 4)
        held_out = data.dataset("validation")
        answers = {tuple(held_out[i].prompt): list(held_out[i].response) for i in range(5)}
        answers[tuple(held_out[4].prompt)][1] = EOS
        backbone = known_answers(answers, len(words), words.mask_token_id, [EOS], words)
        config = DecodingConfig(proposal="factorized", steps=LENGTH, max_new_tokens=LENGTH, block_length=LENGTH)
        callback = FewStepReasoning(
            [config], [1, 2], examples=5, samples=2, every_n_epochs=every_n_epochs, most_share=1.0, seed=0
        )
        logger = TensorBoardLogger(tmp_path, name="", version="")
        L.Trainer(
            accelerator="cpu",
            max_epochs=epochs,
            logger=logger,
            callbacks=[callback],
            log_every_n_steps=1,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
        ).fit(Idle(backbone), datamodule=data)
        logger.experiment.close()
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        events = EventAccumulator(str(tmp_path))
        events.Reload()
        found = {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
        texts = {tag for tag in events.Tags()["tensors"] if tag.startswith("samples/")}
        assert {tag.split("/")[1] for tag in texts} == {"0", "1"}
        return found

    return fit


def test_the_callback_logs_accuracies_and_passes_of_held_out_problems(
    scalars: Callable[..., dict[str, list[tuple[int, float]]]],
) -> None:
    found = scalars(every_n_epochs=1, epochs=2)
    for budget, nfe in ((1, 1.0), (2, (4 * 2 + 1) / 5)):  # two words and EOS take two steps, one word and EOS one
        place = f"factorized/steps_{budget}"
        assert found[f"strict_accuracy/{place}"] == [(2, pytest.approx(0.8)), (4, pytest.approx(0.8))]
        assert found[f"flexible_accuracy/{place}"] == [(2, pytest.approx(0.8)), (4, pytest.approx(0.8))]
        assert found[f"nfe/{place}"] == [(2, pytest.approx(nfe)), (4, pytest.approx(nfe))]


def test_the_callback_acts_every_so_many_epochs_and_shows_a_table(
    scalars: Callable[..., dict[str, list[tuple[int, float]]]], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="codd_lightning"):
        found = scalars(every_n_epochs=2, epochs=3)
    assert [step for step, _ in found["strict_accuracy/factorized/steps_1"]] == [4]
    tables = [message for message in caplog.messages if "held-out problems" in message]
    assert len(tables) == 1
    assert "epoch 2" in tables[0]
    assert "80.0" in tables[0]
