"""Tables that are changed in the midst of training, whatever the strategy has made of them."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

SCRIPT = """
import sys
import lightning as L
import torch
from codd_lightning.backbones import load_backbone
from codd_lightning.circuits import HMM
from codd_lightning.data import TaskDataModule
from codd_lightning.modules import CircuitModule, CyclicAdamW, Noise, circuit_module
from codd_lightning.strategies import FSDP2, DeepSpeedZero, whole_state
from codd_lightning.tasks import WordedSums
from safetensors.torch import save_file

STRATEGIES = {
    "alone": None,
    "fsdp2": FSDP2(),
    "zero2": DeepSpeedZero(stage=2),
    "zero3": DeepSpeedZero(stage=3, persistent_elements=0),  # tiny tensors are split too
    "zero3_persistent": DeepSpeedZero(stage=3),
}


class Keep(L.Callback):
    def __init__(self, path):
        self.path = path

    def on_train_end(self, trainer, module):
        state = whole_state(module, "circuit.")
        if trainer.is_global_zero:
            save_file(state, self.path)


def split(circuit, traces):
    generator = torch.Generator().manual_seed(len(traces.tokens))
    for table in circuit.parameters():
        table += 2.0 * torch.randn(table.shape, generator=generator)
    return 1


if __name__ == "__main__":
    folder, name, *_ = sys.argv[1:]
    torch.set_num_threads(1)
    circuit_module.split_forgetful_states = split
    backbone = load_backbone("codd_tiny", dtype=torch.float32)
    data = TaskDataModule(
        WordedSums(2, 3), backbone.tokenizer, backbone.eos_token_ids[0], block_length=32, batch_size=8,
        train_size=32, validation_size=8, test_size=8, max_prompt_tokens=96, max_response_tokens=64,
    )
    hmm = HMM(7, backbone.vocab_size, 32)  # nothing divides by two
    hmm.reset_parameters(torch.Generator().manual_seed(0))
    recipe = CyclicAdamW(lr=0.05, warmup_steps=0, cycles=3, static_cycles=0)
    module = CircuitModule(backbone, hmm, Noise("uniform", 32, 0.5, 0), "per_token", recipe)
    strategy = STRATEGIES[name]
    trainer = L.Trainer(
        accelerator="cpu", devices=1 if strategy is None else 2, strategy=strategy("cpu") if strategy else "auto",
        max_epochs=3, logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        use_distributed_sampler=False, num_sanity_val_steps=0, callbacks=[Keep(f"{folder}/{name}.safetensors")],
    )
    trainer.fit(module, data)
"""


def tables(folder: Path, name: str) -> dict[str, torch.Tensor]:
    script = folder / "train.py"
    script.write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, str(script), str(folder), name], capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    weights = load_file(folder / f"{name}.safetensors")
    return {table: value.softmax(1 if "emission" in table else -1) for table, value in weights.items()}


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """What a single process learns, with a jolt at the start of each cycle but the first."""
    return tables(tmp_path_factory.mktemp("alone"), "alone")


@pytest.mark.parametrize(
    "strategy", ["fsdp2", "zero2", "zero3", pytest.param("zero3_persistent", marks=pytest.mark.slow)]
)
def test_what_changes_tables_between_steps_changes_them_in_pieces_too(
    strategy: str, alone: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    in_pieces = tables(tmp_path, strategy)
    for name, table in alone.items():
        assert (in_pieces[name] - table).abs().max() < 1e-3, name
