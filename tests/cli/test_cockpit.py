"""A grid of small runs with every callback: its event files, its TensorBoard over HTTP, and its pages in a browser."""

import json
import re
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from browser import CHROMIUM, Browser
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from codd_lightning.cli.compose import callbacks_of, compose_experiment, settings_of
from codd_lightning.cli.main import main

BUCKETS = ("0.00-0.25", "0.25-0.50", "0.50-0.75", "0.75-1.00")
CELLS = ("circuit.num_states=4", "circuit.num_states=8")
SMALL = [
    *("data.train_size=96", "data.validation_size=16", "data.test_size=16"),
    *("trainer.max_epochs=2", "trainer.progress_bar=false", "trainer.num_threads=1", "trainer.log_every_n_steps=1"),
    *("callbacks.few_step_reasoning.examples=4", "callbacks.few_step_reasoning.steps_per_block=[1,4]"),
    *("callbacks.gap_curve.examples=4", "callbacks.gap_curve.most_share=1.0", "callbacks.circuit_health.examples=4"),
    *("evaluation.examples=4", "evaluation.likelihood_examples=8", "evaluation.steps_per_block=[1]"),
]

pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of two finished cells that differ in `circuit.num_states`."""
    folder = tmp_path_factory.mktemp("runs") / "grid"
    swept = f"circuit.num_states={','.join(cell.partition('=')[2] for cell in CELLS)}"
    assert main(["train", "smoke", "-m", swept, "callbacks=cockpit", *SMALL, f"output_dir={folder}"]) == 0
    return folder


@pytest.fixture(scope="module")
def events(grid: Path) -> EventAccumulator:
    """What the first cell wrote."""
    read = EventAccumulator(str(grid / CELLS[0] / "tensorboard"), size_guidance={"tensors": 0, "images": 0})
    read.Reload()
    return read


@pytest.fixture(scope="module")
def server(grid: Path) -> Iterator[str]:
    """The address of a TensorBoard of the grid, on a free port; ended after."""
    command = [sys.executable, "-W", "ignore", "-m", "tensorboard.main", "--logdir", str(grid), "--port", "0"]
    process = subprocess.Popen([*command, "--load_fast=false"], stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        said = (re.search(r"http://\S+", line) for line in process.stderr)
        yield next(found.group() for found in said if found)
    finally:
        process.terminate()
        process.communicate(timeout=20)


def ask(server: str, path: str, **query: str) -> Any:
    with urllib.request.urlopen(f"{server}data/{path}?{urlencode(query)}", timeout=20) as answer:
        return json.load(answer)


def post(server: str, path: str, question: dict[str, Any]) -> Any:
    request = urllib.request.Request(f"{server}data/{path}", json.dumps(question).encode(), method="POST")
    request.add_header("Content-Type", "application/json")
    with urllib.request.urlopen(request, timeout=20) as answer:
        return json.load(answer)


def text(events: EventAccumulator, tag: str) -> str:
    return str(events.Tensors(f"{tag}/text_summary")[-1].tensor_proto.string_val[0].decode())


def test_accuracies_and_gains_have_the_tags_that_the_charts_draw(events: EventAccumulator) -> None:
    from tensorboard.plugins.custom_scalar.layout_pb2 import Layout

    layout = Layout.FromString(events.Tensors("custom_scalars__config__")[0].tensor_proto.string_val[0])
    charts = {chart.title: list(chart.multiline.tag) for category in layout.category for chart in category.chart}
    drawn = {
        title: {tag for tag in events.Tags()["scalars"] if any(re.match(pattern, tag) for pattern in patterns)}
        for title, patterns in charts.items()
    }
    decoders = ("factorized", "factorized_left_to_right_eos_last", "any_order_eos_last")
    for grade in ("strict", "flexible"):
        expected = {f"{grade}_accuracy/{decoder}/steps_{budget}" for decoder in decoders for budget in (1, 4)}
        assert drawn[f"{grade} accuracy"] == expected
    assert drawn["CLL gain"]
    assert drawn["CLL gain"] <= {f"validation/cll_gain/{bucket}" for bucket in BUCKETS}
    assert drawn["misspecification gap"]


def test_the_gap_is_a_figure_at_every_epoch_and_that_of_a_frozen_backbone_stays(events: EventAccumulator) -> None:
    images = events.Images("gap_curve")
    assert [image.step for image in images] == [2, 4]
    assert all(image.encoded_image_string.startswith(b"\x89PNG") for image in images)
    for tag in events.Tags()["scalars"]:
        if tag.startswith("misspecification_gap/"):
            first, second = events.Scalars(tag)
            assert first.value == second.value


def test_samples_and_traces_are_texts_with_marks(events: EventAccumulator) -> None:
    assert "| steps per block | factorized |" in text(events, "samples/0")
    assert "<strong>" in text(events, "samples/0")
    trace = text(events, "traces/any_order_eos_last/steps_4/1")
    steps = [line for line in trace.splitlines() if re.match(r"\| \d", line)]
    assert 4 <= len(steps) <= 8
    assert all("<strong>" in step for step in steps)
    assert "<code>" in text(events, "traces/factorized/steps_4/0")
    assert escape_of_mask() in steps[0]
    assert escape_of_mask() not in steps[-1].rpartition("eos")[0]


def escape_of_mask() -> str:
    return f"&#{ord('·')};"


def test_shares_of_the_time_are_shares_and_every_callback_is_in_them(events: EventAccumulator) -> None:
    shares = {part: events.Scalars(f"throughput/{part}_share") for part in ("backbone", "circuit", "callbacks")}
    for epoch in range(2):
        parts = [values[epoch].value for values in shares.values()]
        assert all(part > 0 for part in parts)
        assert sum(parts) <= 1
    seconds = {tag.rpartition("/")[2] for tag in events.Tags()["scalars"] if tag.startswith("throughput/seconds/")}
    named = {"FewStepReasoning", "Charts", "GapCurve", "DenoisingTraces", "CircuitHealth", "Throughput", "HParams"}
    assert named <= seconds
    examples, tokens = (events.Scalars(f"throughput/{what}_per_second") for what in ("examples", "tokens"))
    assert 64 < tokens[0].value / examples[0].value < 160  # a response has 64, a prompt some more


def test_the_circuits_health_is_within_its_bounds(events: EventAccumulator) -> None:
    for event in events.Scalars("circuit_health/effective_states"):
        assert 1 <= event.value <= 4
    assert all(event.value in range(5) for event in events.Scalars("circuit_health/dead_states"))


def test_the_server_gives_the_tags_and_the_charts_back(server: str, events: EventAccumulator) -> None:
    runs = {f"{cell}/tensorboard" for cell in CELLS}
    scalars = ask(server, "plugin/scalars/tags")
    assert set(scalars) == runs
    assert set(scalars[f"{CELLS[0]}/tensorboard"]) == set(events.Tags()["scalars"])
    layout = ask(server, "plugin/custom_scalars/layout")
    assert [chart["title"] for category in layout["category"] for chart in category["chart"]] == [
        *("strict accuracy", "flexible accuracy", "CLL gain", "misspecification gap")
    ]
    lines = ask(server, "plugin/custom_scalars/scalars", run=f"{CELLS[0]}/tensorboard", tag="strict_accuracy/.*")
    assert len(lines["tag_to_events"]) == 6
    assert "gap_curve" in ask(server, "plugin/images/tags")[f"{CELLS[0]}/tensorboard"]
    shown = ask(server, "plugin/text/text", run=f"{CELLS[0]}/tensorboard", tag="samples/0/text_summary")
    assert "<table>" in shown[-1]["text"]


def test_the_server_compares_the_cells_of_a_grid_by_what_they_changed(server: str, grid: Path) -> None:
    experiment = post(server, "plugin/hparams/experiment", {})
    infos = {info["name"]: info for info in experiment["hparamInfos"]}
    assert infos["circuit.num_states"]["type"] == "DATA_TYPE_FLOAT64"
    wanted_statuses = {"startIndex": 0, "sliceSize": 9, "allowedStatuses": ["STATUS_SUCCESS", "STATUS_UNKNOWN"]}
    groups = post(server, "plugin/hparams/session_groups", {**wanted_statuses, "colParams": []})["sessionGroups"]
    assert sorted(group["hparams"]["circuit.num_states"] for group in groups) == [4.0, 8.0]
    assert not {"output_dir", "experiment_name", "trainer.progress_bar"} & set(infos)
    metrics = {info["name"]["tag"] for info in experiment["metricInfos"]}
    results = json.loads((grid / CELLS[0] / "results.json").read_text())["metrics"]
    wanted = [row for row in results if row["name"] in ("strict_accuracy", "cll_gain")]
    assert len(metrics) == len(wanted)
    assert "test/strict_accuracy/any_order_eos_last/steps_1" in metrics


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium is installed")
def test_a_browser_shows_the_charts_the_texts_and_the_grid(server: str, tmp_path: Path) -> None:
    browser = Browser(tmp_path / "profile")
    try:
        for page, said in (
            ("custom_scalars", "CLL gain"),
            ("text", "traces/any_order_eos_last/steps_4/0"),
            ("images", "gap_curve"),
            ("hparams", "circuit.num_states"),
        ):
            browser.open("about:blank")  # another fragment alone loads nothing
            browser.open(f"{server}#{page}")
            browser.wait(f"({EVERYTHING})(document).includes({json.dumps(said)})", seconds=20)
    finally:
        browser.close()


# All text of a page, that of shadow trees included: TensorBoard's older pages are made of them.
EVERYTHING = """function all(node) {
  const inside = [...node.childNodes, ...(node.shadowRoot ? node.shadowRoot.childNodes : [])];
  return node.nodeType === Node.TEXT_NODE ? node.textContent : inside.map(all).join('');
}"""


def test_the_cockpit_is_every_callback_and_each_has_a_switch() -> None:
    config = compose_experiment("smoke", ["callbacks=cockpit"])
    names = [name for name, _ in callbacks_of(config)]
    assert len(names) == 7
    for name in names:
        config.callbacks[name].enabled = False
        assert name not in [left for left, _ in callbacks_of(config)]
        config.callbacks[name].enabled = True
    switched = compose_experiment("smoke", ["callbacks=cockpit", "callbacks.gap_curve.enabled=false"])
    assert [name for name, _ in callbacks_of(switched)] == [name for name in names if name != "gap_curve"]


def test_settings_are_what_was_overridden_by_type_without_places_and_choices_of_experiments() -> None:
    overrides = ["optimizer=em", "optimizer.lr=1e-2", "+callbacks=none", "data.task.steps=[1,2]", "overwrite=true"]
    config = compose_experiment("smoke", ["optimizer=em", "optimizer.lr=1e-2", "callbacks=none"])
    assert settings_of(config, overrides) == {
        "optimizer": "em",
        "optimizer.lr": 0.01,
        "callbacks": "none",
        "data.task.steps": "[1,2]",
    }
