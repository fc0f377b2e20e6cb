"""The health of a circuit's states on held-out text, as rows."""

import torch

from codd_lightning.backbones import device_of
from codd_lightning.circuits import Circuit, circuit_health
from codd_lightning.data import TaskDataModule
from codd_lightning.errors import UserError
from codd_lightning.evaluation.rows import Row, row
from codd_lightning.modules import clean_blocks


def evaluate_health(circuit: Circuit, data: TaskDataModule, *, examples: int, split: str) -> list[Row]:
    """Effective and dead states and the entropy of transitions, given the true tokens of some examples' blocks.

    Args:
        circuit: whose states are counted; no backbone is asked.
        data: where examples come from; the first ones are taken.
        examples: how many.
        split: of the data.

    Returns:
        One row a number, `n` the tokens; none for a structure without states, no entropy for one without transitions.

    Raises:
        UserError: there are fewer examples than asked for.
    """
    dataset = data.dataset(split)
    if examples > len(dataset):
        raise UserError(f"examples={examples} is more than the {len(dataset)} of the {split} split")
    with torch.inference_mode(False):  # expected counts are derivatives
        batch = data.collate([dataset[i] for i in range(examples)]).to(device_of(circuit))
        blocks = clean_blocks(batch, data.block_length, circuit.vocab_size)
        health = circuit_health(circuit, blocks.evidence)
    if health is None:
        return []
    numbers: list[tuple[str, float | None, str]] = [
        ("effective_states", health.effective_states, "states"),
        ("dead_states", health.dead_states, "states"),
        ("transition_entropy", health.transition_entropy, "nats"),
    ]
    tokens = blocks.tokens.numel()
    return [row(name, v, v, v, tokens, unit, split) for name, v, unit in numbers if v is not None]
