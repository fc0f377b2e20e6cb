"""`codd lm-eval` as a user runs it: lm-eval's own command line, our model, our errors."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("lm_eval")

import torch

from codd_lightning.backbones import load_backbone
from codd_lightning.circuits import HMM, save_circuit
from codd_lightning.cli.lm_eval import PROTOCOLS, with_protocol
from codd_lightning.cli.main import main
from codd_lightning.errors import UserError
from codd_lightning.tasks import WordedSums


def fails(error: Exception) -> Any:
    def cli_evaluate() -> None:
        raise error

    return cli_evaluate


def write_task(folder: Path, name: str, options: dict[str, Any], problems: list[dict[str, Any]]) -> str:
    """A task of lm-eval on problems of our own; JSON is YAML."""
    data, file = folder / f"{name}.jsonl", folder / f"{name}.yaml"
    data.write_text("".join(json.dumps(problem) + "\n" for problem in problems))
    local = {"data_files": {"test": str(data)}, "cache_dir": str(folder / "cache")}
    dataset = {"dataset_path": "json", "dataset_kwargs": local, "test_split": "test"}
    file.write_text(json.dumps({"task": name, **dataset, **options}))
    return str(file)


def test_tasks_of_both_kinds_run_with_a_circuit(tmp_path: Path) -> None:
    circuit = HMM(3, load_backbone("codd_tiny").vocab_size, 32)
    circuit.reset_parameters(torch.Generator().manual_seed(0))
    with torch.no_grad():
        circuit.emission_logits.zero_()  # couples nothing: accuracies are the backbone's
    save_circuit(circuit, tmp_path / "circuit")
    sums = WordedSums()
    examples = [sums.example("test", index, 0) for index in range(4)]
    answers = [example.response for example in examples]
    choice = {"output_type": "multiple_choice", "doc_to_text": "{{q}}", "doc_to_choice": "{{choices}}"}
    choice |= {"doc_to_target": "label", "metric_list": [{"metric": "acc"}]}
    choices = [
        {"q": example.prompt, "choices": [" " + answers[i - 1], " " + answers[i]], "label": 1}
        for i, example in enumerate(examples)
    ]
    last_number = {"function": "regex", "regex_pattern": "(\\d+)", "group_select": -1}
    text = {"output_type": "generate_until", "doc_to_text": "{{q}}", "doc_to_target": "{{a}}"}
    text |= {"metric_list": [{"metric": "exact_match"}], "generation_kwargs": {"until": ["\n"], "do_sample": False}}
    text |= {"filter_list": [{"name": "last", "filter": [last_number, {"function": "take_first"}]}]}
    texts = [{"q": example.prompt, "a": re.findall(r"\d+", example.response)[-1]} for example in examples]
    tasks = [write_task(tmp_path, "choices", choice, choices), write_task(tmp_path, "texts", text, texts)]
    arguments = f"backbone=codd_tiny,circuit={tmp_path / 'circuit'},max_new_tokens=64,steps=64,mc_samples=8"
    command = [
        sys.executable,
        "-m",
        "codd_lightning.cli.main",
        "lm-eval",
        "--model",
        "codd",
        "--tasks",
        ",".join(tasks),
    ]
    options = ["--model_args", arguments, "--batch_size", "4", "--output_path", str(tmp_path / "out")]
    run = subprocess.run(
        [*command, *options],
        capture_output=True,
        text=True,
        env={**os.environ, "HF_DATASETS_OFFLINE": "1", "HF_HUB_OFFLINE": "1"},
        timeout=300,
    )
    assert run.returncode == 0, run.stderr
    assert "|choices|" in run.stdout
    (file,) = (tmp_path / "out").rglob("results_*.json")
    written = json.loads(file.read_text())
    assert written["results"]["choices"]["acc,none"] >= 0.75
    assert written["results"]["texts"]["exact_match,last"] >= 0.5
    cost = written["config"]["codd"]["cost"]["texts"]
    assert cost["samples"] == 4
    assert cost["circuit_calls"] > 0
    assert "texts: samples 4, nfe" in run.stderr


def test_help_is_lm_evals_own(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["lm-eval", "--help"])
    assert ended.value.code == 0
    assert "Language Model Evaluation Harness" in capsys.readouterr().out


def test_a_wrong_option_is_refused_by_lm_eval(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["lm-eval", "run", "--modle", "codd"])
    assert ended.value.code == 2
    assert "unrecognized arguments: --modle codd" in capsys.readouterr().err


def test_an_error_of_ours_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("lm_eval.__main__.cli_evaluate", fails(UserError("model_args: step is not an option")))
    assert main(["lm-eval", "run"]) == 2
    assert capsys.readouterr().err == "codd: model_args: step is not an option\n"


def test_an_error_of_lm_eval_is_said_as_python_says_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("lm_eval.__main__.cli_evaluate", fails(KeyError("no such task")))
    assert main(["lm-eval", "run"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("Traceback")
    assert error.endswith("KeyError: 'no such task'\n")


def test_where_lm_eval_is_missing_its_extra_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert main(["lm-eval", "--help"]) == 2
    assert capsys.readouterr().err == "codd: codd lm-eval needs lm-eval: pip install 'codd-lightning[lm-eval]'\n"


@pytest.mark.parametrize("given", [["--config", "math500"], ["-C", "math500"], ["--config=math500"]])
def test_a_protocol_is_called_by_its_name(given: list[str]) -> None:
    found = with_protocol([*given, "--limit", "2"])
    file, tasks = str(PROTOCOLS / "math500.yaml"), str(PROTOCOLS / "tasks")
    assert found == [given[0][:2] if given[0] == "-C" else "--config", file, "--limit", "2", "--include_path", tasks]
    assert Path(file).is_file()


def test_other_configurations_and_folders_of_tasks_are_left_as_they_are(tmp_path: Path) -> None:
    for given in (["--config", "mine.yaml"], ["ls", "tasks"], ["--config"], ["--model", "codd"]):
        assert with_protocol(given) == given
    assert with_protocol(["--config", "gsm8k", "--include_path", "mine"])[2:] == ["--include_path", "mine"]
