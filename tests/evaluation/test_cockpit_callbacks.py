"""What callbacks cost is watched, only the first process shows anything, and a clock loses no second."""

import logging
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch.profilers import SimpleProfiler

from codd_lightning.callbacks import at_epoch_end, gap_curve, throughput
from codd_lightning.callbacks.at_epoch_end import AtEpochEnd
from codd_lightning.callbacks.circuit_health import CircuitHealth
from codd_lightning.callbacks.throughput import CallbackClock
from codd_lightning.evaluation import Spent, row, throughput_rows


class Clock:
    """A time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(at_epoch_end, "time", made)
    monkeypatch.setattr(throughput, "time", made)
    return made


class Slow(AtEpochEnd):
    """Takes a second."""

    def __init__(self, clock: Clock, every_n_epochs: int, most_share: float) -> None:
        super().__init__(every_n_epochs, most_share)
        self.clock, self.shown = clock, 0

    def show(self, trainer: Any, module: Any) -> None:
        self.shown += 1
        self.clock.now += 1.0


def epochs(callback: Slow, clock: Clock, seconds: float, count: int, **trainer: Any) -> None:
    """Epochs that take some seconds beside what the callback takes."""
    state: Any = SimpleNamespace(**{"sanity_checking": False, "is_global_zero": True, "logger": None, **trainer})
    module: Any = None
    callback.on_train_start(state, module)
    for state.current_epoch in range(count):
        clock.now += seconds
        callback.on_validation_epoch_end(state, module)
        callback.on_train_epoch_end(state, module)


@pytest.mark.parametrize(("seconds", "warnings"), [(8.9, 1), (9.1, 0)])  # of a share of 0.1
def test_a_callback_that_takes_more_than_its_share_says_so_once(
    clock: Clock, caplog: pytest.LogCaptureFixture, seconds: float, warnings: int
) -> None:
    with caplog.at_level(logging.WARNING, logger="codd_lightning"):
        epochs(Slow(clock, 1, most_share=0.1), clock, seconds, count=3)
    said = [message for message in caplog.messages if "most_share=0.1" in message]
    assert len(said) == warnings


def test_a_share_is_one_of_all_epochs_since_the_last_time(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    slow = Slow(clock, 3, most_share=0.1)
    with caplog.at_level(logging.WARNING, logger="codd_lightning"):
        epochs(slow, clock, seconds=4.0, count=6)  # a second in 13
    assert slow.shown == 2
    assert not caplog.messages


@pytest.mark.parametrize("trainer", [{"is_global_zero": False}, {"sanity_checking": True}])
def test_other_processes_and_the_sanity_check_show_nothing(clock: Clock, trainer: dict[str, bool]) -> None:
    slow = Slow(clock, 1, most_share=1.0)
    epochs(slow, clock, seconds=1.0, count=2, **trainer)
    assert slow.shown == 0


def test_the_clock_adds_up_callbacks_by_class_and_passes_everything_on(clock: Clock) -> None:
    inner = SimpleProfiler()
    counting = CallbackClock(inner)
    for action, seconds in (
        ("[Callback]Slow.on_train_start", 2.0),
        ("[Callback]RunCheckpoint{'monitor': 'a.b'}.on_train_end", 3.0),
        ("[Callback]Slow.on_train_end", 4.0),
        ("[Strategy]SingleDeviceStrategy.training_step", 8.0),
    ):
        with counting.profile(action):
            clock.now += seconds
    assert counting.seconds == {"Slow": 6.0, "RunCheckpoint": 3.0}
    assert len(inner.recorded_durations) == 4


def test_rates_and_shares_are_quotients_of_what_was_spent() -> None:
    spent = Spent(
        examples=60, tokens=900, training=30.0, total=50.0, steps=20.0, backbone=5.0, callbacks={"A": 4.0, "B": 6.0}
    )
    values = {row["name"]: row["value"] for row in throughput_rows(spent, trains_backbone=False)}
    assert values == {
        "examples_per_second": 2.0,
        "tokens_per_second": 30.0,
        "backbone_share": 0.1,
        "circuit_share": 0.3,
        "callbacks_share": 0.2,
        "seconds/A": 4.0,
        "seconds/B": 6.0,
    }
    alone = {row["name"]: row["value"] for row in throughput_rows(spent, trains_backbone=True)}
    assert (alone["backbone_share"], alone["circuit_share"]) == (0.4, 0.0)


def test_without_a_circuit_there_is_one_note_and_no_number(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("codd_lightning.callbacks.circuit_health.board_of", lambda trainer: object())
    data: Any = None
    health = CircuitHealth(data, examples=1, every_n_epochs=1, most_share=1.0)
    nothing: Any = SimpleNamespace()
    with caplog.at_level(logging.INFO, logger="codd_lightning"):
        health.show(nothing, nothing)
        health.show(nothing, nothing)
    assert caplog.messages == ["callbacks.circuit_health shows nothing here: no circuit"]


@pytest.mark.parametrize(("frozen", "asked"), [(True, [True, False, False]), (False, [True, True, True])])
def test_the_sequential_likelihood_of_a_frozen_backbone_is_measured_once_and_drawn_every_time(
    monkeypatch: pytest.MonkeyPatch, frozen: bool, asked: list[bool]
) -> None:
    found: list[bool] = []
    drawn: list[list[str]] = []

    def measured(*_: Any, sequential: bool, **__: Any) -> list[dict[str, Any]]:
        found.append(sequential)
        names = ["nll_factorized", *(["nll_sequential", "misspecification_gap"] if sequential else [])]
        return [row(name, 1.0, 1.0, 1.0, 1, "nats/token", "validation", mask_ratio=[0.0, 0.25]) for name in names]

    def draw(rows: list[dict[str, Any]]) -> None:
        drawn.append([row["name"] for row in rows])

    scalars: list[str] = []
    board = SimpleNamespace(add_scalar=lambda tag, value, step: scalars.append(tag))
    monkeypatch.setattr(gap_curve, "evaluate_likelihood", measured)
    monkeypatch.setattr(gap_curve, "misspecification_gap", draw)
    monkeypatch.setattr(gap_curve, "board_of", lambda trainer: board)
    data: Any = SimpleNamespace(block_length=4)
    backbone = torch.nn.Linear(1, 1).requires_grad_(not frozen)
    module: Any = SimpleNamespace(backbone=backbone)
    trainer: Any = SimpleNamespace(global_step=0)
    curve = gap_curve.GapCurve(data, examples=1, canvas="uniform", every_n_epochs=1, most_share=1.0, seed=0)
    for _ in range(3):
        curve.show(trainer, module)
    assert found == asked
    assert drawn == [["nll_factorized", "nll_sequential", "misspecification_gap"]] * 3
    assert scalars == ["misspecification_gap/0.00-0.25"] * 3


def test_passes_of_the_backbone_count_within_steps_only_and_it_is_left_as_it_was(clock: Clock) -> None:
    class Backbone:
        def predict(self) -> str:
            clock.now += 2.0
            return "said"

    backbone = Backbone()
    module: Any = SimpleNamespace(backbone=backbone, circuit=None)
    profiler = SimpleProfiler()
    trainer: Any = SimpleNamespace(profiler=profiler, world_size=1, is_global_zero=False)
    watching = throughput.Throughput()
    watching.setup(trainer, module, "fit")
    watching.on_train_start(trainer, module)
    watching.on_validation_batch_start()
    assert backbone.predict() == "said"
    clock.now += 3.0
    watching.on_validation_batch_end()
    backbone.predict()  # by a callback
    assert watching._spent == Spent(steps=5.0, backbone=2.0)
    watching.teardown(trainer, module, "fit")
    assert trainer.profiler is profiler
    assert "predict" not in vars(backbone)
