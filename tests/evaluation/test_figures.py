"""Figures: what they show is what the rows say, and the same rows are the same bytes."""

import random
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import matplotlib
import pytest
from matplotlib.figure import Figure

from codd_lightning.evaluation import row
from codd_lightning.evaluation.figures import (
    COSTS,
    Learnt,
    accuracy_by,
    accuracy_pareto,
    barrier_by_states,
    gain_by_mask_ratio,
    gamma_tau,
    heat_map,
    latency,
    misspecification_gap,
    pareto_front,
    svg,
    write_figure,
)


def accuracy(decoder: str, steps: int, value: float, **labels: Any) -> dict[str, Any]:
    costs = {"steps_per_block": steps, "nfe": 1.5 * steps, "tpf": 32 / steps, "seconds_per_sample": 0.01 * steps}
    found = row("strict_accuracy", value, value - 0.1, value + 0.1, 10, "fraction", "test", decoder=decoder, **costs)
    return {**found, **labels}


def likelihood(name: str, value: float, low: float = 0.0) -> dict[str, Any]:
    return row(name, value, value - 0.1, value + 0.1, 9, "nats/token", "test", mask_ratio=[low, low + 0.25])


ROWS = [accuracy("factorized", 1, 0.2), accuracy("any_order", 4, 0.9), accuracy("any_order", 1, 0.5)]
GRID = [
    accuracy("any_order", 1, 0.1 * i + 0.2 * j, gamma=g, tau=t, split="validation")
    for i, g in enumerate((0.5, 1.0))
    for j, t in enumerate((0.0, 1.0))
]
LIKELIHOODS = [
    likelihood(name, value + low, low)
    for low in (0.0, 0.5)
    for name, value in (("nll_factorized", 1.0), ("nll_coupled", 0.7), ("nll_sequential", 0.4), ("cll_gain", 0.3))
]
BARRIER = [
    Learnt(
        states,
        rule,
        [
            row("nats_left", 1 / states, 0, 1, 1, "nats/problem", "test", head=head)
            for head in ("factorized", "any_order")
        ],
    )
    for states in (4, 32, 33)
    for rule in ("AdamW", "EM")
]


def every_figure() -> dict[str, Figure | None]:
    return {
        **{cost: accuracy_by(ROWS, cost) for cost in COSTS},
        "latency": latency(ROWS),
        "gap": misspecification_gap(LIKELIHOODS),
        "gain": gain_by_mask_ratio({"a $run_1$": LIKELIHOODS, "b": LIKELIHOODS}),
        "gamma_tau": gamma_tau(GRID),
        "heat": heat_map({(4, "em"): 1.0, (8, "adamw"): 2.0}, "states", "rule", "nats"),
        "barrier": barrier_by_states(BARRIER, "nats_left", 33),
        "pareto": accuracy_pareto({"HMM": ROWS, "Mixture": [accuracy("any_order", 2, 0.6)]}, "nfe"),
    }


def drawn_text(figure: Figure) -> str:
    return " | ".join(ElementTree.fromstring(svg(figure)).itertext())


def test_every_figure_is_the_same_bytes_again_whatever_the_callers_settings(tmp_path: Path) -> None:
    first = {name: svg(figure) for name, figure in every_figure().items() if figure}
    with matplotlib.rc_context({"font.size": 30, "svg.fonttype": "path", "svg.hashsalt": None}):
        second = {name: svg(figure) for name, figure in every_figure().items() if figure}
    assert first == second
    assert len(first) == len(every_figure())
    figure = accuracy_by(ROWS, "nfe")
    assert figure is not None
    written = write_figure(figure, tmp_path, "a")
    before = [path.read_bytes() for path in written]
    assert [path.read_bytes() for path in write_figure(figure, tmp_path, "a")] == before
    assert [path.suffix for path in written] == [".svg", ".png"]


def test_every_figure_is_vectors_with_text_and_without_a_date() -> None:
    for name, figure in every_figure().items():
        assert figure is not None
        text = svg(figure)
        assert "<image" not in text, name
        assert "<text" in text, name
        assert not re.search(r"<dc:date>", text), name


def test_every_axis_says_what_it_is() -> None:
    for name, figure in every_figure().items():
        assert figure is not None
        assert figure.axes[0].get_xlabel(), name
        assert figure.axes[0].get_ylabel(), name


def test_accuracy_stands_where_its_row_says_with_its_interval() -> None:
    figure = accuracy_by(ROWS, "nfe")
    assert figure is not None
    lines = [line for line in figure.axes[0].get_lines() if line.get_linestyle() != "None"]
    assert [list(line.get_xydata().ravel()) for line in lines] == [  # type: ignore[union-attr]  # always data
        pytest.approx([1.5, 20.0]),
        pytest.approx([1.5, 50.0, 6.0, 90.0]),
    ]
    ends = figure.axes[0].collections[0].get_segments()[0]  # type: ignore[attr-defined]  # a line collection
    assert list(ends[:, 1]) == pytest.approx([10.0, 30.0])


@pytest.mark.parametrize("seed", range(20))
def test_a_front_is_what_none_beats(seed: int) -> None:
    draw = random.Random(seed)
    rows = [accuracy("any_order", draw.randint(1, 6), draw.randint(0, 6) / 10) for _ in range(12)]

    def beaten(one: dict[str, Any]) -> bool:
        return any(
            other["nfe"] <= one["nfe"] and other["value"] >= one["value"]
            and (other["nfe"], other["value"]) != (one["nfe"], one["value"])
            for other in rows
        )  # fmt: skip

    front = [(one["nfe"], one["value"]) for one in pareto_front(rows, "nfe")]
    assert front == sorted({(one["nfe"], one["value"]) for one in rows if not beaten(one)})


def test_a_commit_rule_is_one_curve_over_its_bounds_and_has_no_steps() -> None:
    rule = {"commit": "threshold", "commit_reads": "backbone"}
    rows = [*ROWS, *(accuracy("any_order", 4, 0.5, **rule, commit_bound=bound) for bound in (0.5, 0.9))]
    by_passes, by_steps = accuracy_by(rows, "nfe"), accuracy_by(rows, "steps_per_block")
    assert by_passes is not None
    assert by_steps is not None
    assert "any_order_threshold" in drawn_text(by_passes)
    assert "0.9" not in drawn_text(by_passes)
    assert "threshold" not in drawn_text(by_steps)


def test_series_differ_in_grey_as_well() -> None:
    figure = accuracy_by([accuracy(f"decoder{i}", 1, 0.1 * i) for i in range(7)], "nfe")
    assert figure is not None
    lines = [line for line in figure.axes[0].get_lines() if len(line.get_xdata()) and line.get_label()[0] != "_"]  # type: ignore[index, arg-type]  # texts and arrays
    assert len({line.get_marker() for line in lines}) == len(lines)


def test_a_label_is_text_even_where_it_looks_like_mathematics_or_markup() -> None:
    figure = accuracy_by([accuracy("$\\frac{$", 1, 0.5), accuracy("<script>alert(1)</script>", 1, 0.5)], "nfe")
    assert figure is not None
    assert "<script" not in svg(figure)
    assert "$\\frac{$" in drawn_text(figure)


def test_without_rows_there_is_no_figure() -> None:
    assert accuracy_by(LIKELIHOODS, "nfe") is None
    assert accuracy_by([accuracy("x", 1, 0.5, nfe=None)], "nfe") is None
    assert latency([]) is None
    assert misspecification_gap(ROWS) is None
    assert gain_by_mask_ratio({"a": ROWS}) is None
    assert gamma_tau(ROWS) is None
    assert barrier_by_states(BARRIER, "one_step_right") is None


def test_the_smallest_sufficient_number_of_states_is_marked() -> None:
    figure = barrier_by_states(BARRIER, "nats_left", 33)
    assert figure is not None
    assert "33 states suffice" in drawn_text(figure)
    assert any(set(line.get_xdata()) == {33} for line in figure.axes[0].get_lines())  # type: ignore[arg-type]  # an array


def test_texts_do_not_overlap() -> None:
    for name, figure in every_figure().items():
        assert figure is not None
        figure.draw_without_rendering()
        boxes = [
            text.get_window_extent()
            for axes in figure.axes
            for text in [*axes.get_xticklabels(), *axes.get_yticklabels(), axes.xaxis.label, axes.yaxis.label]
            if text.get_text() and text.get_visible()
        ]
        inside = [box for box in boxes if figure.bbox.contains(box.x0 + 1, box.y0 + 1)]
        for i, box in enumerate(inside):
            assert not any(box.shrunk(0.9, 0.9).overlaps(other.shrunk(0.9, 0.9)) for other in inside[:i]), name


def test_a_grid_of_gamma_and_tau_shows_the_mean_over_budgets_and_final_rows_stay_lines() -> None:
    grid = [
        accuracy("any_order", steps, value, gamma=0.5, tau=0.1, split="validation")
        for steps, value in ((1, 0.2), (4, 0.6))
    ]
    tuned = accuracy("any_order", 4, 0.9, gamma=0.5, tau=0.1)
    figure = gamma_tau([*grid, tuned])
    assert figure is not None
    assert [text.get_text() for text in figure.axes[0].texts] == ["40"]
    assert gamma_tau([tuned]) is None
    assert accuracy_by([tuned], "nfe") is not None
    assert accuracy_by(grid, "nfe") is None
