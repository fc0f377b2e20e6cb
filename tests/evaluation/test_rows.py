"""Rows, their tags and tables, and results.json."""

import json
from pathlib import Path
from typing import Any

import pytest

from codd_lightning.evaluation import accuracy_table, likelihood_table, render, row, tag, write_results


def accuracy(value: float = 0.5, **labels: Any) -> dict[str, Any]:
    given = {"decoder": "any_order", "remasking": "low_confidence", "eos": "any", "steps_per_block": 4, **labels}
    return row("strict_accuracy", value, value - 0.1, value + 0.1, 10, "fraction", "test", **given)


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ({}, "strict_accuracy/any_order/steps_4"),
        ({"steps_per_block": 32, "decoder": "latent"}, "strict_accuracy/latent/steps_32"),
        ({"remasking": "margin"}, "strict_accuracy/any_order_margin/steps_4"),
        ({"eos": "last"}, "strict_accuracy/any_order_eos_last/steps_4"),
        ({"remasking": "entropy", "eos": "last"}, "strict_accuracy/any_order_entropy_eos_last/steps_4"),
    ],
)
def test_tags_name_metric_decoder_and_steps(labels: dict[str, Any], expected: str) -> None:
    assert tag(accuracy(**labels)) == expected


def test_tags_of_likelihoods_name_the_mask_ratio() -> None:
    measured = row("cll_gain", 0.1, 0.0, 0.2, 5, "nats/token", "test", mask_ratio=[0.5, 0.75])
    assert tag(measured) == "cll_gain/0.50-0.75"
    assert tag(row("training_seconds", 1.0, 1.0, 1.0, 1, "s", "train")) == "training_seconds"


def test_results_are_written_as_the_design_says(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    write_results(path, experiment="demo", seconds=1.23456, parameters={"backbone": 3}, metrics=[accuracy()])
    assert json.loads(path.read_text()) == {
        "schema": 1,
        "experiment": "demo",
        "status": "completed",
        "seconds": 1.235,
        "parameters": {"backbone": 3},
        "metrics": [accuracy()],
    }
    assert list(tmp_path.iterdir()) == [path]


def test_results_that_cannot_be_written_leave_the_old_ones_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "results.json"
    write_results(path, experiment="old", seconds=1.0, parameters={}, metrics=[])
    before = path.read_bytes()
    with pytest.raises(TypeError):
        write_results(path, experiment="new", seconds=1.0, parameters={}, metrics=[{"value": object()}])
    assert path.read_bytes() == before

    def full_disk(self: Path, text: str, *args: Any, **kwargs: Any) -> int:
        with self.open("w") as file:
            file.write(text[: len(text) // 2])
        raise OSError("no space left on device")

    monkeypatch.setattr(Path, "write_text", full_disk)
    with pytest.raises(OSError, match="no space"):
        write_results(path, experiment="new", seconds=1.0, parameters={}, metrics=[accuracy()])
    assert path.read_bytes() == before


def test_a_reader_of_old_results_reads_them_to_their_end(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    write_results(path, experiment="old", seconds=1.0, parameters={}, metrics=[])
    with path.open() as reader:
        write_results(path, experiment="new", seconds=1.0, parameters={}, metrics=[])
        assert json.load(reader)["experiment"] == "old"
    assert json.loads(path.read_text())["experiment"] == "new"


def test_tables_show_every_row_once_under_its_budget() -> None:
    rows = [accuracy(0.25, steps_per_block=1), accuracy(0.5), accuracy(0.75, decoder="factorized", steps_per_block=1)]
    lines = render(accuracy_table(rows)).splitlines()
    any_order = next(line for line in lines if "any_order" in line)
    factorized = next(line for line in lines if "factorized" in line)
    assert any_order.index("25.0 (15.0–35.0)") < any_order.index("50.0 (40.0–60.0)")
    assert "75.0 (65.0–85.0)" in factorized
    assert "50.0" not in factorized


def test_likelihood_tables_show_each_mask_ratio() -> None:
    rows = [
        row("cll_gain", 0.125, 0.1, 0.15, 5, "nats/token", "test", mask_ratio=[0.5, 0.75]),
        row("cll_gain", 0.5, 0.4, 0.6, 5, "nats/token", "test", mask_ratio=[0.75, 1.0]),
    ]
    text = render(likelihood_table([*rows, accuracy()]))
    assert text.index("0.50–0.75") < text.index("0.75–1.00")
    assert "0.125 (0.100 to 0.150)" in text
    assert "any_order" not in text


def test_a_commit_rule_stands_in_the_table_with_its_passes_and_no_step_budget() -> None:
    rule = {"commit": "joint", "commit_bound": 0.5, "commit_reads": "circuit", "steps_per_block": 32, "nfe": 7.25}
    lines = render(accuracy_table([accuracy(), accuracy(0.7, **rule)])).splitlines()
    (line,) = [line for line in lines if "any_order_joint_circuit_0.5" in line]
    assert "70.0 (60.0–80.0) in 7.2 passes" in line
    assert not any("32" in cell for cell in lines)
