"""Every table and figure of the paper has an experiment that runs here, and composes for the real checkpoints."""

import json
from pathlib import Path

import pytest

from codd_lightning.cli.compose import compose_experiment
from codd_lightning.cli.main import main

PAPER = (
    *("table1_llada", "table2_dream", "table3_latency", "table4_gamma_tau", "table6_dream_block"),
    *("figure1_gap", "figure2_cll"),
)
SMALL = [
    "circuit.num_states=4",
    "data.train_size=48",
    "data.validation_size=8",
    "data.test_size=8",
    "evaluation.examples=2",
    "evaluation.steps_per_block=[8,32]",
    "trainer.progress_bar=false",
    "trainer.num_threads=1",
]


@pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")
@pytest.mark.parametrize("name", PAPER)
def test_an_experiment_of_the_paper_runs_on_the_bundled_backbone(name: str, tmp_path: Path) -> None:
    likelihood = ["evaluation.likelihood_examples=4"] if name.startswith("figure") else []
    assert main(["train", name, *SMALL, *likelihood, f"output_dir={tmp_path / 'run'}"]) == 0
    metrics = json.loads((tmp_path / "run" / "results.json").read_text())["metrics"]
    names = {row["name"] for row in metrics if row["split"] == "test"}
    if name == "figure1_gap":
        assert {"nll_factorized", "nll_coupled", "nll_sequential", "misspecification_gap"} <= names
    elif name == "figure2_cll":
        assert "cll_gain" in names
    else:
        accuracies = [row for row in metrics if row["name"] == "strict_accuracy"]
        assert {row["decoder"] for row in accuracies} >= {"factorized", "latent"}
        assert {row["steps_per_block"] for row in accuracies} == {8, 32}  # with one token a step


@pytest.mark.parametrize("name", PAPER)
@pytest.mark.parametrize("backbone", ["llada_8b", "dream_7b"])
def test_the_backbone_brings_its_data_and_its_circuit(name: str, backbone: str) -> None:
    here, there = compose_experiment(name, []), compose_experiment(name, [f"backbone={backbone}"])
    assert here.data.task._target_.endswith("WordedSums")
    assert there.data.task.repo == "openai/gsm8k"
    assert (there.data.max_response_tokens, there.circuit.num_states) == (512, 1024)
    assert there.evaluation.steps_per_block == here.evaluation.steps_per_block
