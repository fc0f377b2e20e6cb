"""How fast training goes, and where its time goes, at the end of every epoch."""

import time
from typing import Any

import lightning as L
import torch
from lightning.pytorch.profilers import Profiler

from codd_lightning.callbacks.at_epoch_end import board_of
from codd_lightning.data import Batch, Blocks
from codd_lightning.evaluation import Spent, tag, throughput_rows


class CallbackClock(Profiler):
    """Adds up the seconds of every callback's hooks; passes all on to the profiler that was there before.

    Attributes:
        seconds: by the callbacks' class names.
    """

    def __init__(self, inner: Profiler) -> None:
        super().__init__()
        self.inner = inner
        self.seconds: dict[str, float] = {}
        self._started: dict[str, float] = {}

    def start(self, action_name: str) -> None:
        self.inner.start(action_name)
        self._started[action_name] = time.perf_counter()

    def stop(self, action_name: str) -> None:
        kind, _, action = action_name.partition("]")
        if kind == "[Callback" and action_name in self._started:
            name = action.partition("{")[0].partition(".")[0]
            spent = time.perf_counter() - self._started[action_name]
            self.seconds[name] = self.seconds.get(name, 0.0) + spent
        self.inner.stop(action_name)

    def summary(self) -> str:
        return self.inner.summary()


class Throughput(L.Callback):
    """Examples and tokens per second, and the shares of backbone, circuit and callbacks in an epoch's time.

    It listens to the trainer's steps, to its callbacks and to the backbone's `predict`; on a GPU it waits for the
    device before and after each of the backbone's passes.
    """

    def __init__(self) -> None:
        self._spent = Spent()
        self._stepping = False

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self._clock = CallbackClock(trainer.profiler)  # type: ignore[attr-defined]  # every trainer has one
        trainer.profiler = self._clock  # type: ignore[attr-defined]
        self._backbone: Any = getattr(pl_module, "backbone", None)
        if self._backbone is not None:
            self._predict = self._backbone.predict
            self._backbone.predict = self._timed_predict

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        trainer.profiler = self._clock.inner  # type: ignore[attr-defined]
        if self._backbone is not None:
            del self._backbone.predict  # the class has its own

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._start_anew()

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._epoch_started = time.perf_counter()

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Batch | Blocks, batch_idx: int
    ) -> None:
        self._start_step()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Batch | Blocks, batch_idx: int
    ) -> None:
        self._end_step()
        if isinstance(batch, Blocks):
            examples, tokens = batch.examples, batch.tokens.numel()
        else:
            examples, tokens = len(batch), int(batch.attention_mask.sum())
        self._spent.examples += trainer.world_size * examples
        self._spent.tokens += trainer.world_size * tokens
        self._spent.training = time.perf_counter() - self._epoch_started

    def on_validation_batch_start(self, *_: Any, **__: Any) -> None:
        self._start_step()

    def on_validation_batch_end(self, *_: Any, **__: Any) -> None:
        self._end_step()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._spent.total = time.perf_counter() - self._since
        self._spent.callbacks = {
            name: seconds - self._before.get(name, 0.0) for name, seconds in self._clock.seconds.items()
        }
        board = board_of(trainer)
        if board is not None:
            for row in throughput_rows(self._spent, trains_backbone=not hasattr(pl_module, "circuit")):
                board.add_scalar(f"throughput/{tag(row)}", row["value"], trainer.global_step)
        self._start_anew()

    def _start_anew(self) -> None:
        self._spent = Spent()
        self._since = time.perf_counter()
        self._before = dict(self._clock.seconds)

    def _start_step(self) -> None:
        self._stepping = True
        self._in_callbacks = sum(self._clock.seconds.values())
        self._step_started = time.perf_counter()

    def _end_step(self) -> None:
        self._stepping = False
        callbacks = sum(self._clock.seconds.values()) - self._in_callbacks
        self._spent.steps += time.perf_counter() - self._step_started - callbacks

    def _timed_predict(self, *args: Any, **kwargs: Any) -> Any:
        if not self._stepping:  # asked by a callback
            return self._predict(*args, **kwargs)
        started = _now()
        prediction = self._predict(*args, **kwargs)
        self._spent.backbone += _now() - started
        return prediction


def _now() -> float:
    """Seconds, when the device has done what it was given."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.perf_counter()
