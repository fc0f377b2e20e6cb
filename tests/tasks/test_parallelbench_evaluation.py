"""From `data.path` to rows: the benchmark's experiment, built and decoded."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from codd_lightning.backbones.tokenizers import train_tokenizer
from codd_lightning.cli.build import build, decoding_config, make_data, make_task
from codd_lightning.cli.compose import compose_experiment
from codd_lightning.errors import UserError
from codd_lightning.evaluation import aup_rows, evaluate_few_step, subtask_rows

from .parallelbench_clone import RULE_BASED, write_clone


def test_the_experiment_needs_a_path_and_knows_no_second_one(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^data\.path must be given: add data\.path=VALUE$"):
        compose_experiment("parallelbench", [])
    with pytest.raises(UserError, match=r"^data\.pth is not an option .* did you mean data\.path\?$"):
        compose_experiment("parallelbench", ["data.pth=a"])
    with pytest.raises(UserError, match=r"^data\.task\.path is not an option"):
        compose_experiment("parallelbench", ["data.path=a", "data.task.path=b"])
    with pytest.raises(UserError, match=r"no folder at data\.path="):
        build(compose_experiment("parallelbench", [f"data.path={tmp_path / 'a'}", "backbone=codd_tiny"]))


def test_the_experiment_is_built_and_decoded_with_a_small_backbone(tmp_path: Path) -> None:
    overrides = [f"data.path={write_clone(tmp_path)}", "backbone=codd_tiny", "data.task.subtasks=[waiting_line/copy]"]
    config = compose_experiment("parallelbench", [*overrides, "data.max_response_tokens=96"])
    experiment = build(config)
    result = evaluate_few_step(
        experiment.backbone,
        experiment.task,
        experiment.data.dataset("test"),
        experiment.decoders,
        [1, 2],
        examples=1,
        batch_size=1,
        seed=0,
        split="test",
    )
    assert len(result.rows) == 2 * 2 * len(config.evaluation.decoders)
    with pytest.raises(UserError, match="no train split"):
        experiment.data.dataset("train")


def test_a_backbone_that_knows_the_answers_is_right_in_every_subtask(
    tmp_path: Path, known_answers: Callable[..., Any]
) -> None:
    config = compose_experiment("parallelbench", [f"data.path={write_clone(tmp_path)}", "data.max_response_tokens=96"])
    task = make_task(config)
    tokenizer = train_tokenizer(["[]"], "bpe", 300)
    eos = tokenizer.eos_token_id
    some = known_answers({}, len(tokenizer), tokenizer.mask_token_id, [eos], tokenizer)
    dataset = make_data(config, task, some).dataset("test")
    assert dataset.dropped == 0
    for i in range(len(dataset)):
        some.answers[tuple(dataset[i].prompt)] = list(dataset[i].response)
    forgotten = next(i for i in range(len(dataset)) if dataset.example(i)[0].problem.subtask == "waiting_line/sort")
    some.answers[tuple(dataset[forgotten].prompt)] = [eos] * 96
    decoders = [decoding_config(config, decoder, None) for decoder in config.evaluation.decoders[:1]]
    result = evaluate_few_step(
        some, task, dataset, decoders, [1, 4], examples=len(dataset), batch_size=5, seed=0, split="test"
    )
    for samples in result.samples:
        rows = [r for r in subtask_rows(samples, "test") if r["name"] == "strict_accuracy_of_subtask"]
        assert {r["subtask"]: r["value"] for r in rows} == {
            name: float(name != "waiting_line/sort") for name in RULE_BASED
        }
    (area,) = aup_rows(result.samples, "test")
    assert area["value"] == pytest.approx(100 * 13 / 14 * max(r["tpf"] for r in result.rows))
