"""Mean and spread over prompt templates, against counting by hand."""

import pytest

from codd_lightning.evaluation import Sample, template_rows
from codd_lightning.tasks import Example, Grade


def decoded(template: str, right: list[bool], decoder: str = "any_order") -> list[Sample]:
    return [
        Sample(
            index=i,
            labels={"template": template, "decoder": decoder, "steps_per_block": 4},
            example=Example("p", "r"),
            text="",
            pieces=[],
            grade=Grade(strict=ok, flexible=True),
            ended=True,
            tokens=1,
            nfe=1,
            circuit_calls=0,
            seconds=0.0,
        )
        for i, ok in enumerate(right)
    ]


def test_mean_and_spread_are_those_of_the_accuracies() -> None:
    settings = [decoded("a", [True, True, True, False]), decoded("b", [True, False, False, False])]
    rows = {row["name"] + row.get("template", ""): row for row in template_rows(settings, "test")}
    mean = rows["strict_accuracymean of templates"]
    assert (mean["value"], mean["n"], mean["decoder"], mean["steps_per_block"]) == (0.5, 4, "any_order", 4)
    assert mean["low"] < 0.5 < mean["high"]
    spread = rows["strict_accuracy_spread"]
    assert spread["value"] == pytest.approx(0.5)
    assert 0.0 <= spread["low"] <= 0.5 <= spread["high"] <= 1.0
    assert rows["flexible_accuracy_spread"]["value"] == 0.0
    assert (rows["flexible_accuracy_spread"]["low"], rows["flexible_accuracy_spread"]["high"]) == (0.0, 0.0)


def test_decoders_are_kept_apart_and_one_template_has_no_spread() -> None:
    settings = [decoded("a", [True]), decoded("a", [False], "factorized"), decoded("b", [True])]
    assert {row["decoder"] for row in template_rows(settings, "test")} == {"any_order"}
    assert template_rows([decoded("a", [True])], "test") == []
