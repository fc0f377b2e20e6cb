"""`codd tune` chooses on held-out problems, and says so where the choice is used."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from codd_lightning.backbones import load_backbone
from codd_lightning.circuits import HMM, load_circuit, save_circuit
from codd_lightning.circuits.folder import BUNDLED
from codd_lightning.cli.main import main
from codd_lightning.cli.tune import _choose
from codd_lightning.cli.tuned import label_of, tuned_for
from codd_lightning.decoding import DecodingConfig
from codd_lightning.evaluation import Remembering

from .small import SMALL

GRID = ["tuning.gammas=[1.0,0.5]", "tuning.taus=[0.0,1.0]", "tuning.examples=6"]

pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")


@pytest.fixture(scope="module")
def tuned(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small finished run, tuned."""
    folder = tmp_path_factory.mktemp("tuned") / "smoke"
    shutil.copytree(trained, folder)
    assert main(["tune", "smoke", *SMALL, *GRID, f"output_dir={folder}"]) == 0
    return folder


def test_every_cell_is_measured_on_held_out_problems(tuned: Path) -> None:
    metrics = json.loads((tuned / "results.json").read_text())["metrics"]
    cells = [row for row in metrics if row["split"] == "validation" and row["name"] == "strict_accuracy"]
    assert sorted((row["gamma"], row["tau"]) for row in cells) == [(0.5, 0.0), (0.5, 1.0), (1.0, 0.0), (1.0, 1.0)]
    assert {(row["decoder"], row["n"], row["steps_per_block"]) for row in cells} == {("any_order", 6, 4)}
    assert [row["name"] for row in metrics if row["split"] == "train"] == ["training_seconds"]
    assert any(row["split"] == "test" for row in metrics)
    again = json.loads((tuned / "manifest.json").read_text())["measured_again"]
    assert [entry["tuning"]["examples"] for entry in again] == [6]


def test_the_choice_travels_with_the_circuit_and_is_used(tuned: Path, tmp_path: Path) -> None:
    choice = load_circuit(tuned / "circuit").tuned["any_order_eos_last"]
    assert choice["split"] == "validation"
    assert main(["export", str(tuned), str(tmp_path / "out")]) == 0
    assert load_circuit(tmp_path / "out").tuned["any_order_eos_last"] == choice
    assert (tmp_path / "out" / "README.md").read_text() == (tuned / "circuit" / "README.md").read_text()
    folder = tmp_path / "run"
    shutil.copytree(tuned, folder)
    assert main(["evaluate", "smoke", *SMALL, "decoding.tuned=true", f"output_dir={folder}"]) == 0
    rows = [r for r in json.loads((folder / "results.json").read_text())["metrics"] if r["split"] == "test"]
    coupled = [row for row in rows if row.get("decoder") == "any_order"]
    assert {(row["gamma"], row["tau"]) for row in coupled} == {(choice["gamma"], choice["tau"])}
    assert not [row for row in rows if row.get("decoder") == "factorized" and "gamma" in row]


def test_tuned_values_that_are_not_there_are_refused(tuned: Path, capfd: pytest.CaptureFixture[str]) -> None:
    given = ["circuit=pretrained", f"circuit.path_or_repo={tuned / 'circuit'}", "decoding.tuned=true"]
    other = ["evaluation.decoders=[{proposal: latent}]"]
    assert main(["evaluate", "smoke", *SMALL, *given, *other, "output_dir=/nonexistent/x"]) == 2
    assert "decoding.tuned=true, and nothing was chosen for latent: run codd tune first" in capfd.readouterr().err


def test_only_coupled_decoders_are_tuned(tuned: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["tune", "smoke", *SMALL, "evaluation.decoders=[{proposal: factorized}]", f"output_dir={tuned}"]) == 2
    assert "codd tune needs a circuit, and a coupled decoder" in capfd.readouterr().err


@pytest.mark.parametrize("source", ["codd_tiny_one_step", "./codd_tiny_one_step"])
def test_what_is_chosen_for_a_bundled_circuit_is_written_nowhere(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    save_circuit(HMM(3, 141, 32), "codd_tiny_one_step")
    before = (tmp_path / "codd_tiny_one_step" / "config.json").read_text()
    given = ["circuit=pretrained", f"circuit.path_or_repo={source}", "tuning.gammas=[1.0]", "tuning.taus=[0.0]"]
    assert main(["tune", "smoke", *SMALL, *given, "tuning.examples=2", "output_dir=run"]) == 0
    written = (tmp_path / "codd_tiny_one_step" / "config.json").read_text() != before
    assert written == source.startswith("./")
    assert "tuned" not in (BUNDLED["codd_tiny_one_step"] / "config.json").read_text()


def row(gamma: float, tau: float, budget: int, strict: float, flexible: float) -> list[dict[str, Any]]:
    labels = {"decoder": "any_order", "gamma": gamma, "tau": tau, "steps_per_block": budget, "n": 10}
    return [
        {"name": "strict_accuracy", "value": strict, **labels},
        {"name": "flexible_accuracy", "value": flexible, **labels},
    ]


def test_the_best_is_best_over_all_budgets_and_equals_go_to_the_first() -> None:
    grid = [(1.0, 0.0), (1.0, 1.0), (0.5, 0.0)]
    rows = [*row(1.0, 0.0, 1, 0.2, 0.5), *row(1.0, 0.0, 4, 0.6, 0.5)]  # 0.4
    rows += [*row(1.0, 1.0, 1, 0.1, 0.5), *row(1.0, 1.0, 4, 0.9, 0.5)]  # 0.5
    rows += [*row(0.5, 0.0, 1, 0.5, 0.5), *row(0.5, 0.0, 4, 0.5, 0.5)]  # 0.5 too, and later
    choice = _choose(rows, grid)["any_order"]
    assert (choice["gamma"], choice["tau"], choice["strict_accuracy"]) == (1.0, 1.0, 0.5)
    rows[-1]["value"] = 0.9  # a better flexible accuracy decides between equals
    assert _choose(rows, grid)["any_order"]["gamma"] == 0.5


def test_a_commit_rule_is_chosen_under_a_name_of_its_own() -> None:
    plain = DecodingConfig(proposal="any_order")
    rule = plain.replace(commit="threshold", commit_bound=0.9999998)
    other = rule.replace(commit_bound=0.9999999)
    assert len({label_of(plain), label_of(rule), label_of(other)}) == 3
    circuit = HMM(2, 4, 4)
    circuit.tuned = {label_of(rule): {"gamma": 0.5, "tau": 0.0}}
    assert tuned_for(circuit, rule) == {"gamma": 0.5, "tau": 0.0}
    assert tuned_for(circuit, plain) is None
    labels = {"commit": "threshold", "commit_bound": 0.5, "commit_reads": "backbone"}
    chosen = _choose([{**each, **labels} for each in row(1.0, 0.0, 32, 0.5, 0.5)], [(1.0, 0.0)])
    assert [choice["strict_accuracy"] for choice in chosen.values()] == [0.5]


def test_a_remembering_backbone_answers_as_the_backbone_and_asks_once() -> None:
    backbone = load_backbone("codd_tiny")
    remembering = Remembering(backbone)
    canvas = torch.randint(0, backbone.vocab_size, (2, 9), generator=torch.Generator().manual_seed(0))
    columns, other = torch.arange(4, 9), torch.arange(3, 9)
    expected = backbone.predict(canvas, columns).logits
    first = remembering.predict(canvas, columns).logits
    first.fill_(0.0)  # whoever asks may write into it
    assert torch.equal(remembering.predict(canvas, columns).logits, expected)
    assert (remembering.passes, remembering.recalled) == (1, 1)
    assert torch.equal(remembering.predict(canvas, other).logits, backbone.predict(canvas, other).logits)
    assert (remembering.passes, remembering.recalled) == (2, 1)
    assert remembering.mask_token_id == backbone.mask_token_id
