"""A circuit is the same whether one process trains it or several do: EM's counts and AdamW's gradients are summed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.testing import assert_close

from codd_lightning.circuits import Evidence, load_circuit

TRAINING = [
    *("circuit.num_states=8", "data.train_size=48", "data.batch_size=8", "data.validation_size=8", "data.test_size=8"),
    *("trainer.max_epochs=2", "trainer.progress_bar=false", "trainer.num_threads=1", "callbacks=none"),
    *("evaluation.examples=0", "evaluation.likelihood_examples=0", "backbone.dtype=float32"),
]
RULES = {
    "em": ["optimizer=em", "objective=likelihood"],
    "em, conditional": ["optimizer=em"],
    "adamw": ["optimizer.warmup_steps=0"],
}

pytestmark = pytest.mark.slow


def trained(folder: Path, processes: int, rule: str) -> Path:
    world = ["trainer=ddp", "trainer.accelerator=cpu", f"trainer.devices={processes}", f"output_dir={folder}"]
    command = [sys.executable, "-m", "codd_lightning.cli.main", "train", "smoke", *TRAINING, *RULES[rule], *world]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr
    crowded = processes > (os.cpu_count() or 1)
    assert done.stderr.count("\n") == crowded, done.stderr
    return folder / "circuit"


@pytest.mark.parametrize("rule", RULES)
def test_one_two_and_four_processes_train_the_same_circuit(rule: str, tmp_path: Path) -> None:
    folders = {count: trained(tmp_path / str(count), count, rule) for count in (1, 2, 4)}
    alone = load_circuit(folders[1])
    generator = torch.Generator().manual_seed(0)
    shape = (16, alone.block_length, alone.vocab_size)
    evidence = Evidence.from_logits(
        torch.randn(shape, generator=generator),
        torch.full(shape[:2], alone.vocab_size),  # nothing is known
        mask_token_id=alone.vocab_size,
    )
    for count in (2, 4):
        circuit = load_circuit(folders[count])
        assert_close(circuit.log_partition(evidence), alone.log_partition(evidence), atol=0.02, rtol=0)
        for name, table in load_file(folders[1] / "model.safetensors").items():
            other = load_file(folders[count] / "model.safetensors")[name]
            if "logits" in name:
                dim = 1 if "emission" in name else -1
                table, other = table.softmax(dim), other.softmax(dim)
            assert_close(other, table, atol=1e-3, rtol=0, msg=lambda text, of=(count, name): f"{of}: {text}")
