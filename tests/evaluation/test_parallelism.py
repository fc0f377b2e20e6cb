"""The area under accuracy against parallelism, held to closed forms, and its rows."""

import dataclasses
import math

import pytest

from codd_lightning.evaluation import Sample, area_under_parallelism, aup_rows, subtask_rows, tag, wilson
from codd_lightning.tasks import Example, Grade


def weight(accuracy: float, best: float) -> float:
    return min(math.exp(-3 * (1 - accuracy / best)), 1.0)


def test_one_point_is_a_rectangle() -> None:
    assert area_under_parallelism([(1.0, 80.0)]) == 80.0
    assert area_under_parallelism([(2.5, 80.0)], best=90.0) == 200.0  # what the first point reaches is not weighed


def test_an_accuracy_that_is_held_counts_at_every_parallelism() -> None:
    assert area_under_parallelism([(1.0, 70.0), (2.0, 70.0), (4.0, 70.0)]) == pytest.approx(4 * 70.0)


def test_what_is_below_the_best_counts_by_its_exponential_weight() -> None:
    expected = 1 * 60.0 + (3 - 1) * 60.0 * math.exp(-3 * (1 - 60 / 80))
    assert area_under_parallelism([(1.0, 60.0), (3.0, 60.0)], best=80.0) == pytest.approx(expected)


def test_trapezoids_stand_between_the_points_in_any_order() -> None:
    points = [(4.0, 76.0), (1.0, 80.0), (2.0, 78.0)]
    weighted = {y: y * weight(y, 80.0) for _, y in points}
    expected = 80.0 + (weighted[80.0] + weighted[78.0]) / 2 + 2 * (weighted[78.0] + weighted[76.0]) / 2
    assert area_under_parallelism(points) == pytest.approx(expected)


def test_of_two_points_at_one_parallelism_the_worse_changes_nothing() -> None:
    points = [(1.0, 90.0), (4.0, 90.0)]
    assert area_under_parallelism([(1.0, 86.0), *points, (4.0, 88.0)]) == area_under_parallelism(points)


def test_more_than_five_points_lost_count_for_nothing() -> None:
    held = [(1.0, 80.0), (2.0, 75.0)]
    assert area_under_parallelism([*held, (9.0, 74.9)]) == area_under_parallelism(held)
    assert area_under_parallelism([(1.0, 80.0), (9.0, 74.9)]) == 80.0
    assert area_under_parallelism(held) > 80.0
    # a loss that is made good later leaves the later point
    assert area_under_parallelism([*held, (3.0, 20.0), (4.0, 80.0)]) == area_under_parallelism([*held, (4.0, 80.0)])


def test_better_than_the_best_weighs_no_more_than_one() -> None:
    assert area_under_parallelism([(1.0, 90.0), (2.0, 90.0)], best=80.0) == pytest.approx(180.0)


def test_no_right_answer_is_no_area() -> None:
    assert area_under_parallelism([(1.0, 0.0), (8.0, 0.0)]) == 0.0


@pytest.mark.parametrize("points", [[], [(0.0, 80.0)], [(1.0, 80.0), (-1.0, 80.0)]])
def test_an_area_needs_points_with_parallelism(points: list[tuple[float, float]]) -> None:
    with pytest.raises(ValueError, match="an area needs points"):
        area_under_parallelism(points)


@dataclasses.dataclass
class Named:
    subtask: str


def sample(right: bool, nfe: int = 8, decoder: str = "factorized", subtask: str = "a", loose: bool = False) -> Sample:
    return Sample(
        index=0,
        labels={"decoder": decoder, "remasking": "random", "eos": "any", "steps_per_block": nfe},
        example=Example("p", "r", Named(subtask) if subtask else None),
        text="",
        pieces=[],
        grade=Grade(strict=right, flexible=right or loose),
        ended=True,
        tokens=16,
        nfe=nfe,
        circuit_calls=0,
        seconds=0.0,
    )


def test_each_decoder_has_a_row_over_its_budgets_with_one_best_accuracy_for_all() -> None:
    samples = [
        [sample(i < right, nfe, decoder) for i in range(100)]
        for decoder, nfe, right in [
            ("factorized", 16, 80),
            ("factorized", 8, 78),
            ("factorized", 2, 30),
            ("any_order", 16, 80),
            ("any_order", 2, 90),
        ]
    ]
    rows = {measured["decoder"]: measured for measured in aup_rows(samples, "test")}
    w = {y: y * weight(y, 90.0) for y in (78.0, 80.0, 90.0)}
    assert rows["factorized"]["value"] == pytest.approx(1 * 80.0 + (2 - 1) * (w[80.0] + w[78.0]) / 2)
    assert rows["any_order"]["value"] == pytest.approx(1 * 80.0 + (8 - 1) * (w[80.0] + w[90.0]) / 2)
    for measured in rows.values():
        assert (measured["name"], measured["n"], measured["split"], measured["y_max"]) == ("aup", 100, "test", 90.0)
        assert measured["low"] < measured["value"] < measured["high"]
    assert rows["factorized"]["budgets"] == [16, 8, 2]
    assert tag(rows["any_order"]) == "aup/any_order_random"


def test_the_interval_of_one_budget_is_that_of_its_accuracy() -> None:
    samples = [[sample(i < 300, 16) for i in range(400)]]  # ρ = 1: the area is the accuracy in percent
    (measured,) = aup_rows(samples, "test")
    low, high = wilson(300, 400)
    assert measured["value"] == 75.0
    assert measured["low"] == pytest.approx(100 * low, abs=0.6)
    assert measured["high"] == pytest.approx(100 * high, abs=0.6)


def test_certainty_has_no_width_and_nothing_measured_no_row() -> None:
    samples = [[sample(True, nfe) for _ in range(20)] for nfe in (16, 4)]
    (measured,) = aup_rows(samples, "test")
    assert measured["low"] == measured["value"] == measured["high"] == 400.0
    assert aup_rows([], "test") == []


def test_each_subtask_has_its_own_accuracies() -> None:
    of_setting = [
        sample(True, 4, subtask="shuffle"),
        sample(False, 8, subtask="copy", loose=True),
        sample(False, 4, subtask="shuffle"),
        sample(True, 4, subtask=""),  # of a task without subtasks
    ]
    rows = subtask_rows(of_setting, "test")
    assert [(r["name"], r["subtask"], r["value"], r["n"], r["tpf"]) for r in rows] == [
        ("strict_accuracy_of_subtask", "shuffle", 0.5, 2, 4.0),
        ("flexible_accuracy_of_subtask", "shuffle", 0.5, 2, 4.0),
        ("strict_accuracy_of_subtask", "copy", 0.0, 1, 2.0),
        ("flexible_accuracy_of_subtask", "copy", 1.0, 1, 2.0),
    ]
    assert (rows[0]["low"], rows[0]["high"]) == wilson(1, 2)
    assert {(r["decoder"], r["remasking"]) for r in rows} == {("factorized", "random")}
    assert subtask_rows([], "test") == []
