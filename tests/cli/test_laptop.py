"""The laptop experiment from its cache to its figures, on a tiny backbone of the same format."""

import json
import shutil
from pathlib import Path

from codd_lightning.backbones.loading import BUNDLED
from codd_lightning.cli.main import main

FIXTURE = Path(__file__).parents[1] / "fixtures" / "a2d-qwen3-tiny"


def test_the_laptop_experiment_runs_on_a_tiny_backbone_of_the_same_format(tmp_path: Path) -> None:
    backbone = shutil.copytree(FIXTURE, tmp_path / "backbone")
    for file in BUNDLED["codd_tiny"].glob("tokenizer*"):
        shutil.copy(file, backbone)
    words = [
        f"backbone.path_or_repo={backbone}", f"cache.path={tmp_path / 'cache'}", f"output_dir={tmp_path / 'run'}",
        "data=worded_sums", "data.train_size=16", "data.validation_size=8", "trainer.progress_bar=false",
        "circuit.num_states=8", "evaluation.examples=2", "evaluation.likelihood_examples=4",
    ]  # fmt: skip
    assert main(["cache", "laptop", *words]) == 0
    assert main(["train", "laptop", *words]) == 0
    rows = json.loads((tmp_path / "run" / "results.json").read_text())["metrics"]
    assert {row["decoder"] for row in rows if row["name"] == "strict_accuracy"} == {"factorized", "any_order"}
    assert json.loads((tmp_path / "run" / "circuit" / "config.json").read_text())["circuit"] == "seen"
