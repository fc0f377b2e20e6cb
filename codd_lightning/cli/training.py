"""The training of a run on its ranks: from the newest whole checkpoint to the weights that are kept."""

import logging
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import ClusterEnvironment
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch.callbacks import LearningRateMonitor, Timer
from lightning.pytorch.loggers import TensorBoardLogger
from omegaconf import DictConfig

from codd_lightning.cli.build import Experiment, build, make_strategy
from codd_lightning.cli.checkpoint_files import BEST, LAST, SyncedFiles, newest_whole, read_checkpoint, restore
from codd_lightning.cli.checkpoints import RunCheckpoints
from codd_lightning.cli.manifest import Manifest
from codd_lightning.cli.preemption import LeaveWhenAsked
from codd_lightning.cli.progress import training_progress
from codd_lightning.cli.run_folder import RunFolder
from codd_lightning.cli.slurm import in_job
from codd_lightning.cli.trainer import make_trainer
from codd_lightning.cli.world import launched_by_srun, launched_outside
from codd_lightning.evaluation import Row, TakesResults
from codd_lightning.strategies import DDP

log = logging.getLogger("codd_lightning")


class Training:
    """Trainer and callbacks of one rank.

    Args:
        config: of the run.
        experiment: what is trained.
        path: of the run's folder.
        launched: whether `cli.ranks` started this rank.

    Attributes:
        leads: whether this rank speaks, writes and measures.
    """

    def __init__(self, config: DictConfig, experiment: Experiment, path: Path, launched: bool) -> None:
        self._config, self._experiment = config, experiment
        options, folder = config.trainer, path / "checkpoints"
        self._checkpoints = RunCheckpoints(
            folder,
            getattr(experiment.module, "monitor", None),
            options.checkpoint_every_n_steps,
            options.checkpoint_minutes,
        )
        self._timer = Timer()  # counts over all starts of a run
        bar = [training_progress()] if options.progress_bar else []
        self._trainer = make_trainer(
            config,
            experiment.module,
            callbacks=[
                *(self._checkpoints, self._timer, LearningRateMonitor("step"), *bar, *experiment.callbacks),
                *([LeaveWhenAsked(self._checkpoints)] if in_job() else []),  # last, as what it saves holds the others
            ],
            logger=TensorBoardLogger(path, name="", version="tensorboard"),
            plugins=[SyncedFiles(), *_environment(launched)],
            default_root_dir=path,
        )
        self.leads = bool(self._trainer.is_global_zero)

    def join(self, folder: RunFolder) -> None:
        """Waits for the other ranks, so that one of them can prepare the folder for all.

        Raises:
            UserError: the folder cannot be used.
        """
        if self._trainer.world_size > 1:  # what `fit` does first, and finds done
            self._trainer.strategy.connect(self._experiment.module)
            self._trainer.strategy.setup_environment()
        if self.leads:
            folder.prepare()
        self._trainer.strategy.barrier("folder")

    def fit(self, folder: RunFolder, manifest: Manifest | None) -> None:
        """Trains from where the run stopped, or from the start."""
        experiment = self._experiment
        checkpoint = newest_whole(folder.checkpoints, log.warning)
        if checkpoint is not None and manifest is not None:
            step = int(read_checkpoint(checkpoint)["global_step"])
            manifest.resume(step)
            log.info("continuing from %s, step %d", checkpoint, step)
        if not any(p.requires_grad for p in experiment.module.parameters()):
            log.info("nothing here has parameters to train; it is measured as it is")
            return
        if checkpoint is None and experiment.circuit is not None:
            experiment.initialization(experiment.circuit, experiment.backbone, experiment.data, experiment.noise)
        if experiment.cache is not None:
            log.info("evidence from %s; the backbone is loaded after training", self._config.cache.path)
        batches = experiment.cache or experiment.data
        self._trainer.fit(experiment.module, batches, ckpt_path=checkpoint, weights_only=True)
        if manifest is not None:
            manifest.checkpoints(self._checkpoints.written, self._checkpoints.seconds)

    def leave(self) -> None:
        """Ends the group of ranks; nothing that follows waits for another."""
        if self._trainer.world_size > 1:
            self._trainer.strategy.barrier("end")
            torch.distributed.destroy_process_group()

    def trained(self, folder: RunFolder) -> Experiment:
        """The experiment with its best weights, or its last where nothing was validated; whole on this rank."""
        there = [path for name in (BEST, LAST) if (path := folder.checkpoints / name).exists()]
        experiment = self._experiment
        if not isinstance(make_strategy(self._config), DDP):
            experiment = build(self._config)  # the ranks hold pieces of the other one
        if there:
            restore(experiment.module, there[0])
        if (device := self._trainer.strategy.root_device).type != "cpu":
            experiment.module.to(device)  # fit leaves it on the CPU
        return experiment

    def tell(self, rows: list[Row], settings: dict[str, Any]) -> None:
        """Hands the final figures to the callbacks that take them."""
        for callback in self._experiment.callbacks:
            if isinstance(callback, TakesResults):
                callback.on_results(self._trainer, rows, settings)

    @property
    def seconds(self) -> float:
        """Of training, over all starts of the run."""
        return self._timer.time_elapsed()


def _environment(launched: bool) -> list[ClusterEnvironment]:
    """Where Lightning learns of the other ranks; torchrun's variables it finds itself."""
    if launched or not launched_outside():
        return [LightningEnvironment()]  # in a job of SLURM it would take the job's tasks for ranks
    # its own way to queue a job again stops both ranks in the middle of a batch, where they wait for each other
    return [SLURMEnvironment(auto_requeue=False)] if launched_by_srun() else []
