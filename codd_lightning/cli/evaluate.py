"""`codd evaluate`: the figures of the test split without training, by one process or several."""

import argparse
import logging
import sys
from contextlib import closing
from pathlib import Path

import torch
from omegaconf import DictConfig

from codd_lightning.cli.compose import compose_experiment
from codd_lightning.cli.measure import SPLIT, measure, say, warn_of_dropped
from codd_lightning.cli.processes import Processes
from codd_lightning.cli.ranks import run_on_ranks
from codd_lightning.cli.run_folder import RunFolder
from codd_lightning.cli.slurm import progress
from codd_lightning.cli.trained import begin, keep, open_trained
from codd_lightning.cli.world import require_devices, require_lasting_folder
from codd_lightning.errors import UserError

log = logging.getLogger("codd_lightning")


def evaluate_command(args: argparse.Namespace) -> int:
    """The command: measures what is trained already."""
    if args.experiment is None:
        raise UserError("codd evaluate needs an EXPERIMENT: a name in experiments/ or a path")
    processes = Processes.of_environment()
    processes.connect()
    folder: str | None = None
    try:
        config = compose_experiment(args.experiment, args.overrides)
        require_lasting_folder(config)
        folder = config.output_dir = str(processes.first(lambda: RunFolder(config).path))
        progress.watch(Path(folder), "samples/*")
        if processes.size == 1 and config.trainer.devices > 1:
            require_devices(config)
            run_on_ranks(_rank, config, config.trainer.devices)
        else:
            evaluate(config, processes)
    except KeyboardInterrupt:
        if folder is None:
            raise
        raise KeyboardInterrupt(f"the same command with output_dir={folder} decodes what is missing") from None
    except UserError:
        if processes.rank:  # the first one says it
            sys.exit(2)
        raise
    return 0


def _rank(config: DictConfig, rank: int) -> None:
    """One of several processes on this machine."""
    torch.set_num_threads(max(1, torch.get_num_threads() // config.trainer.devices))
    processes = Processes.of_environment()
    processes.connect()
    evaluate(config, processes)


def evaluate(config: DictConfig, processes: Processes) -> None:
    """Every figure of the test split, into `results.json` of `output_dir`.

    A folder that holds a finished training run lends what it has trained, and keeps its rows of training; otherwise
    backbone and circuit are those of the configuration, and must be trained ones.

    Raises:
        UserError: there is nothing trained, or the folder holds something else.
    """
    run, trained, experiment = open_trained(config, processes)
    with closing(RunFolder(config)) as folder:
        processes.first(folder.prepare if run is None else folder.hold)
        manifest = None
        if processes.rank == 0:
            manifest = begin(config, run, experiment, folder)
            warn_of_dropped(experiment, [SPLIT])
            log.info("%s → %s, measured by %d process(es)", config.experiment_name, folder.path, processes.size)
        rows = measure(trained, experiment, folder.path, processes, discard=config.overwrite)
        if processes.rank == 0:
            say(rows)
            keep(config, run, experiment, folder, manifest, rows, SPLIT)
            log.info("results: %s", folder.results_file)
