"""What is left of the barrier, against closed forms."""

import math

import pytest

from codd_lightning.backbones import exact_backbone
from codd_lightning.circuits import HMM, Factorized, permutation_hmm
from codd_lightning.data import TaskDataModule
from codd_lightning.errors import UserError
from codd_lightning.evaluation import evaluate_barrier
from codd_lightning.tasks import ListTask, WordedSums
from codd_lightning.tasks.lists import ITEMS


def rows_of(kind: str, circuit: str | None, varies: bool = False) -> dict[tuple[str, str], dict]:
    task = ListTask(kind, 4, varies)
    backbone = exact_backbone(task)
    data = TaskDataModule(
        task, backbone.tokenizer, backbone.eos_token_ids[0], block_length=6, batch_size=8, train_size=8,
        validation_size=8, test_size=8, max_prompt_tokens=32, max_response_tokens=6,
    )  # fmt: skip
    made: HMM | Factorized | None = None
    if circuit == "closed":
        items = backbone.tokenizer.convert_tokens_to_ids(list(ITEMS[:4]))
        made = permutation_hmm(items, backbone.eos_token_ids[0], backbone.vocab_size, 6)
    elif circuit == "factorized":
        made = Factorized(backbone.vocab_size, 6)
    rows = evaluate_barrier(backbone, task, data.dataset("test"), circuit=made, examples=4, split="test")
    return {(row["name"], row["head"]): row for row in rows}


@pytest.mark.parametrize("kind", ["permutation", "shuffle", "insert", "replace", "remove"])
def test_the_factorized_prediction_loses_the_total_correlation(kind: str) -> None:
    task = ListTask(kind, 4)
    answers = task.answers(task.example("test", 0, 0).prompt)
    for circuit in (None, "factorized"):
        for (name, _), row in rows_of(kind, circuit).items():
            expected = answers.total_correlation if name == "nats_left" else answers.one_step_right
            assert row["value"] == pytest.approx(expected, abs=1e-5)
            assert row["n"] == 4


def test_the_closed_form_leaves_nothing() -> None:
    rows = rows_of("permutation", "closed")
    assert rows["nats_left", "any_order"]["value"] == pytest.approx(0.0, abs=1e-5)
    assert rows["one_step_right", "any_order"]["value"] == pytest.approx(1.0, abs=1e-5)
    assert rows["nats_left", "factorized"]["value"] == pytest.approx(4 * math.log(4) - math.log(24), abs=1e-5)


def test_lists_that_vary_are_problems_of_their_own() -> None:
    rows = rows_of("permutation", None, varies=True)
    assert rows["one_step_right", "factorized"]["value"] == pytest.approx(0.09375, abs=1e-5)


def test_a_task_without_a_list_of_answers_is_refused() -> None:
    with pytest.raises(UserError, match="WordedSums"):
        evaluate_barrier(None, WordedSums(2, 3), [], circuit=None, examples=1, split="test")  # type: ignore[arg-type]
