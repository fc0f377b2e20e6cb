"""Two processes take the step that one takes with their examples together."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from codd_lightning.backbones import load_backbone

SCRIPT = """
import json, sys
import lightning as L
import torch
from codd_lightning.backbones import load_backbone
from codd_lightning.circuits import HMM, save_circuit
from codd_lightning.data import TaskDataModule
from codd_lightning.modules import AdamW, AnemoneEM, CircuitModule, ExpectationMaximization, Noise, PolicyModule
from codd_lightning.tasks import Grade, WordedSums
from safetensors.torch import save_file

class Odd(WordedSums):
    "Rewards half of what an untrained policy writes."
    def grade(self, example, response, ended):
        return Grade(len(response) % 2 == 1, False)

if __name__ == "__main__":
    devices, folder = int(sys.argv[1]), sys.argv[2]
    torch.set_num_threads(1)
    recipes = {
        "adamw": AdamW(lr=0.05, warmup_steps=0),
        "em": ExpectationMaximization(lr=0.5, warmup_steps=0),
        "anemone": AnemoneEM(lr=0.5, warmup_steps=0),
    }
    backbone = load_backbone("codd_tiny", dtype=torch.float32)
    data = TaskDataModule(
        Odd(2, 3), backbone.tokenizer, backbone.eos_token_ids[0], block_length=32, batch_size=8,
        train_size=32, validation_size=8, test_size=8, max_prompt_tokens=96, max_response_tokens=64,
    )
    for case in sys.argv[3:]:
        rule, target = case.split("-")
        hmm = HMM(8, backbone.vocab_size, 32)
        hmm.reset_parameters(torch.Generator().manual_seed(0))
        noise = Noise("uniform", 32, 0.0, 0)
        if target == "policy":
            backbone = load_backbone("codd_tiny", dtype=torch.float32)  # the other is frozen
            gentle = AdamW(lr=1e-3, warmup_steps=0)
            module = PolicyModule(backbone, data, gentle, group_size=4, inner_updates=2, steps_per_block=2)
        else:
            module = CircuitModule(
                backbone, hmm, noise, weight="per_token", optimizer=recipes[rule], conditional=target == "conditional"
            )
        trainer = L.Trainer(
            accelerator="cpu", devices=devices, strategy="ddp" if devices > 1 else "auto", max_epochs=1, logger=False,
            enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
            use_distributed_sampler=False, num_sanity_val_steps=0,
        )
        trainer.fit(module, data)
        if trainer.is_global_zero:
            save_circuit(hmm, f"{folder}/{case}")
            if target == "policy":
                weights = {name: value.clone() for name, value in backbone.state_dict().items()}
                save_file(weights, f"{folder}/policy.safetensors")
"""

CASES = ("adamw-conditional", "em-conditional", "anemone-conditional", "em-joint")
POLICY = "adamw-policy"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for each number of processes, with the circuit of each case; processes start once for all cases."""
    folder = tmp_path_factory.mktemp("ranks")
    script = folder / "train.py"
    script.write_text(SCRIPT)
    for devices in (1, 2):
        command = [sys.executable, str(script), str(devices), str(folder / str(devices)), *CASES, POLICY]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
        assert done.returncode == 0, done.stderr[-2000:]
    return folder


@pytest.mark.parametrize("case", CASES)
def test_two_ranks_train_the_circuit_that_one_rank_trains(case: str, trained: Path) -> None:
    tables = []
    for devices in ("1", "2"):
        weights = load_file(trained / devices / case / "model.safetensors")
        assert json.loads((trained / devices / case / "config.json").read_text())["num_states"] == 8
        tables.append({name: value.softmax(1 if "emission" in name else -1) for name, value in weights.items()})
    alone, together = tables
    for name, table in alone.items():
        assert (together[name] - table).abs().max() < 1e-4, name


def test_two_ranks_train_the_policy_that_one_rank_trains(trained: Path) -> None:
    alone, together = (load_file(trained / devices / "policy.safetensors") for devices in ("1", "2"))
    before = load_backbone("codd_tiny", dtype=torch.float32).state_dict()
    learnt = max(float((value - before[name]).abs().max()) for name, value in alone.items())
    assert learnt > 1e-3
    assert max(float((together[name] - value).abs().max()) for name, value in alone.items()) < 0.1 * learnt
