"""Noise of batches belongs to their samples."""

from typing import Any

import pytest
import torch

from codd_lightning.data import Batch, Encoded, collate
from codd_lightning.errors import UserError
from codd_lightning.modules import Noise

MASK = 99
ROWS = [Encoded(i, [5] * (i % 4), list(range(10, 26))) for i in range(6)]


def masks(batch: Batch, noise: Noise, epoch: int = 0, purpose: str = "training noise") -> dict[int, list[bool]]:
    """What is masked of each sample's response."""
    masked = noise(batch, MASK, epoch, purpose).masked[:, batch.prompt_length :]
    return dict(zip(batch.index.tolist(), masked.tolist(), strict=True))


@pytest.mark.parametrize("canvas", ["uniform", "block", "mixed"])
def test_noise_of_a_sample_does_not_depend_on_its_batch(canvas: str) -> None:
    noise = Noise(canvas=canvas, block_length=8)
    together = masks(collate(ROWS, 0), noise)
    assert masks(collate(ROWS[::-1], 0), noise) == together
    alone: dict[int, list[bool]] = {}
    for row in ROWS:
        alone |= masks(collate([row], 0), noise)
    assert alone == together


def test_noise_changes_with_seed_epoch_and_purpose_and_with_nothing_else() -> None:
    batch = collate(ROWS, 0)
    settings: list[dict[str, Any]] = [{}, {"epoch": 1}, {"purpose": "validation noise"}, {"epoch": 2}]
    found = [masks(batch, Noise(seed=seed), **setting) for seed in (0, 1) for setting in settings]
    assert all(one != other for i, one in enumerate(found) for other in found[:i])
    torch.manual_seed(123)
    assert [masks(batch, Noise(seed=seed), **setting) for seed in (0, 1) for setting in settings] == found


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"canvas": "blocks"}, ["objective.canvas=blocks", "uniform", "block", "mixed"]),
        ({"fully_masked": 1.5}, ["objective.fully_masked=1.5"]),
        ({"fully_masked": -0.1}, ["objective.fully_masked=-0.1"]),
        ({"canvas": "block", "from_left": 1.5}, ["objective.from_left=1.5"]),
        ({"canvas": "uniform", "from_left": 0.5}, ["objective.from_left=0.5", "canvas=block"]),
    ],
)
def test_bad_noise_is_refused(options: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(UserError) as refusal:
        Noise(**options)
    assert all(word in str(refusal.value) for word in words)
