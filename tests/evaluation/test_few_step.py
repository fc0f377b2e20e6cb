"""Few-step accuracy with backbones whose answers are known beforehand."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import PreTrainedTokenizerFast
from whole_data import EOS, data_of

from codd_lightning.circuits import HMM
from codd_lightning.decoding import DecodingConfig
from codd_lightning.errors import UserError
from codd_lightning.evaluation import FewStepResult, evaluate_few_step, wilson

BLOCK, LENGTH = 4, 8


def text(*numbers: int) -> str:
    return " ".join(f"w{i}" for i in numbers)


# prompts of different lengths, so that the order by length is not the order of the problems
PROBLEMS = [
    (text(0, 1, 2, 3), text(5, 6, 7)),
    (text(1), text(8, 9)),
    (text(2, 3), text(10, 11, 12, 13, 14)),
    (text(3, 4, 5), text(15)),
    (text(4), text(16, 17, 18)),
]
TOKENS = [4, 3, 6, 2, 4]  # with EOS
DECODERS = [DecodingConfig(proposal="factorized", steps=LENGTH, max_new_tokens=LENGTH, block_length=BLOCK)]


class Bench:
    """Everything that an evaluation of `PROBLEMS` needs."""

    def __init__(self, task: Any, words: PreTrainedTokenizerFast, known_answers: Callable[..., Any], wrong: int = 0):
        self.task = task
        self.data = data_of(task, words, BLOCK, LENGTH)
        dataset = self.data.dataset("test")
        answers = {tuple(dataset[i].prompt): list(dataset[i].response) for i in range(len(PROBLEMS))}
        for i in range(wrong):
            answers[tuple(dataset[i].prompt)][0] = words.convert_tokens_to_ids("w19")
        self.backbone = known_answers(answers, len(words), words.mask_token_id, [EOS], words)

    def run(self, decoders: list[DecodingConfig] | None = None, **options: Any) -> FewStepResult:
        given: dict[str, Any] = {"examples": len(PROBLEMS), "batch_size": 2, "seed": 0, "split": "test", **options}
        budgets = given.pop("steps_per_block", [1, 2, 4])
        return evaluate_few_step(
            self.backbone, self.task, self.data.dataset("test"), decoders or DECODERS, budgets, **given
        )


@pytest.fixture
def bench(
    listed_task: Callable[..., Any], words: PreTrainedTokenizerFast, known_answers: Callable[..., Any]
) -> Callable[..., Bench]:
    return lambda **options: Bench(listed_task(test=PROBLEMS), words, known_answers, **options)


def untimed(result: FewStepResult) -> list[dict[str, Any]]:
    return [{key: value for key, value in row.items() if key != "seconds_per_sample"} for row in result.rows]


def test_a_backbone_that_knows_all_answers_is_always_right(bench: Callable[..., Bench]) -> None:
    rows = bench().run().rows
    assert [(row["name"], row["steps_per_block"]) for row in rows] == [
        (name, budget) for budget in (1, 2, 4) for name in ("strict_accuracy", "flexible_accuracy")
    ]
    for row in rows:
        assert (row["value"], row["n"], row["unit"], row["split"]) == (1.0, 5, "fraction", "test")
        assert (row["low"], row["high"]) == wilson(5, 5)
        assert (row["decoder"], row["remasking"], row["eos"]) == ("factorized", "low_confidence", "any")
        assert row["circuit_calls"] == 0
        assert row["seconds_per_sample"] > 0


def test_passes_and_tokens_are_counted_up_to_eos(bench: Callable[..., Bench]) -> None:
    rows = {row["steps_per_block"]: row for row in bench().run().rows}
    # one step a block: the response of six tokens takes two blocks, the others one
    assert rows[1]["nfe"] == pytest.approx((1 + 1 + 2 + 1 + 1) / 5)
    assert rows[1]["tpf"] == pytest.approx(sum(TOKENS) / 6)
    # two tokens a step, from left to right
    assert rows[2]["nfe"] == pytest.approx((2 + 2 + 3 + 1 + 2) / 5)
    # a token a step
    assert rows[4]["nfe"] == pytest.approx(sum(TOKENS) / 5)
    assert rows[4]["tpf"] == pytest.approx(1.0)


@pytest.mark.parametrize("wrong", [1, 2, 5])
def test_accuracy_is_the_share_of_right_answers(wrong: int, bench: Callable[..., Bench]) -> None:
    result = bench(wrong=wrong).run(steps_per_block=[2])
    for row in result.rows:
        assert row["value"] == pytest.approx((5 - wrong) / 5)
        assert (row["low"], row["high"]) == wilson(5 - wrong, 5)
    assert [sample.grade.strict for sample in result.samples[0]] == [i >= wrong for i in range(5)]


def test_samples_come_in_the_order_of_the_problems(bench: Callable[..., Bench]) -> None:
    result = bench().run(steps_per_block=[1, 4])
    assert len(result.samples) == 2
    for samples, budget in zip(result.samples, (1, 4), strict=True):
        assert [(s.example.prompt, s.text) for s in samples] == PROBLEMS
        assert [s.tokens for s in samples] == TOKENS
        assert {(s.labels["decoder"], s.labels["steps_per_block"]) for s in samples} == {("factorized", budget)}


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_no_number_depends_on_the_batch_size(
    batch_size: int, bench: Callable[..., Bench], random_hmm: Any, fixed_logits: Callable[..., Any]
) -> None:
    some = bench()
    size, mask_token_id, tokenizer = some.backbone.vocab_size, some.backbone.mask_token_id, some.backbone.tokenizer
    some.backbone = fixed_logits(torch.zeros(size), mask_token_id, [EOS], tokenizer)  # its texts are all chance
    hmm = random_hmm(3, size, BLOCK)
    decoders = [DecodingConfig(proposal="any_order", tau=1.0, steps=8, max_new_tokens=LENGTH, block_length=BLOCK)]
    reference = some.run(decoders, circuit=hmm, batch_size=2)
    other = some.run(decoders, circuit=hmm, batch_size=batch_size)
    assert untimed(other) == untimed(reference)
    texts = [[s.text for s in samples] for samples in reference.samples]
    assert [[s.text for s in samples] for samples in other.samples] == texts
    assert all(len(set(of_budget)) > 1 for of_budget in texts)


def test_decoders_are_named_by_their_proposal_and_count_their_circuit_calls(
    bench: Callable[..., Bench], neutral_hmm: Callable[..., HMM]
) -> None:
    some = bench()
    hmm = neutral_hmm(2, some.backbone.vocab_size, BLOCK)
    layout: dict[str, Any] = {"steps": 2, "max_new_tokens": LENGTH, "block_length": BLOCK}
    decoders = [DecodingConfig(**layout), DecodingConfig(proposal="latent", eos="last", **layout), *DECODERS]
    rows = [row for row in some.run(decoders, circuit=hmm, steps_per_block=[1]).rows if row["name"][0] == "s"]
    assert [(row["decoder"], row["eos"]) for row in rows] == [
        ("any_order", "any"),
        ("latent", "last"),
        ("factorized", "any"),
    ]
    assert [row["circuit_calls"] for row in rows] == [pytest.approx(4 * 6 / 5), pytest.approx(6 / 5), 0]
    assert {row["value"] for row in rows} == {1.0}


def test_only_the_first_problems_are_taken(bench: Callable[..., Bench]) -> None:
    result = bench(wrong=1).run(examples=2, steps_per_block=[1])
    assert [row["value"] for row in result.rows] == [0.5, 0.5]
    assert [row["n"] for row in result.rows] == [2, 2]


def test_more_problems_than_there_are_is_refused(bench: Callable[..., Bench]) -> None:
    with pytest.raises(UserError, match=r"examples=6 is more than the 5 of the test split"):
        bench().run(examples=6)


def test_a_commit_rule_is_measured_once_and_named(bench: Callable[..., Bench]) -> None:
    by_rule = DECODERS[0].replace(commit="threshold", commit_bound=0.5)
    result = bench().run([*DECODERS, by_rule])
    strict = [row for row in result.rows if row["name"] == "strict_accuracy"]
    assert [row["steps_per_block"] for row in strict] == [1, 2, 4, BLOCK]
    assert [row.get("commit_bound") for row in strict] == [None, None, None, 0.5]
    assert strict[-1]["commit"] == "threshold"
    assert strict[-1]["commit_reads"] == "backbone"
    assert strict[-1]["nfe"] < strict[2]["nfe"]  # it is sure of everything: a pass a block
    assert result.samples[-1][0].labels["commit_bound"] == 0.5
