"""The trainer of a run, from its configuration."""

from typing import Any

import lightning as L
import torch
from omegaconf import DictConfig

from codd_lightning.cli.build import make_strategy
from codd_lightning.cli.world import accelerator_of, world_size
from codd_lightning.strategies import DDP


class RunTrainer(L.Trainer):
    """Lightning's trainer, stopped by `StopAfter`: with its own `max_steps`, a run that goes on skips an epoch.

    Args:
        updates: after which training ends; None for whole epochs.
        options: of Lightning's.

    Attributes:
        updates: as given.
    """

    def __init__(self, updates: int | None, callbacks: list[L.Callback], **options: Any) -> None:
        self.updates = updates
        stop = [] if updates is None else [StopAfter(updates)]
        super().__init__(callbacks=[*stop, *callbacks], **options)

    @property
    def estimated_stepping_batches(self) -> int | float:
        whole = super().estimated_stepping_batches
        return whole if self.updates is None else min(whole, self.updates)


class StopAfter(L.Callback):
    """Ends training after some updates, with a validation as at the end of an epoch."""

    def __init__(self, updates: int) -> None:
        self._updates = updates

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.on_train_batch_end(trainer)

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        if trainer.global_step >= self._updates:
            trainer.should_stop = True


def make_trainer(config: DictConfig, module: L.LightningModule, **parts: Any) -> L.Trainer:
    """The trainer of a run, single-process torch threads set as asked."""
    options = config.trainer
    if options.num_threads is not None:
        torch.set_num_threads(options.num_threads)
    strategy = make_strategy(config)
    accelerator = accelerator_of(config)
    alone = world_size(config) == 1 and isinstance(strategy, DDP)  # nobody to share with
    return RunTrainer(
        None if options.max_steps == -1 else options.max_steps,
        accelerator=accelerator,
        devices=options.devices,
        num_nodes=options.num_nodes,
        strategy="auto" if alone else strategy(accelerator),
        precision=options.precision,
        max_epochs=options.max_epochs,
        gradient_clip_val=options.gradient_clip_val if module.automatic_optimization else None,  # EM has no gradients
        check_val_every_n_epoch=options.check_val_every_n_epoch,
        log_every_n_steps=options.log_every_n_steps,
        enable_progress_bar=options.progress_bar,
        enable_model_summary=False,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        **parts,
    )
