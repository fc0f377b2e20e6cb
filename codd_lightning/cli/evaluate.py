"""`codd evaluate`: the figures of the test split without training, by one process or several."""

import argparse
import logging
import sys
from contextlib import closing

import torch
from omegaconf import DictConfig

from codd_lightning.cli.build import Experiment
from codd_lightning.cli.compose import compose_experiment, without_effect
from codd_lightning.cli.console import log_to
from codd_lightning.cli.finished_run import FinishedRun
from codd_lightning.cli.manifest import Manifest, fingerprint
from codd_lightning.cli.measure import count_parameters, measure, say, warn_of_dropped
from codd_lightning.cli.processes import Processes
from codd_lightning.cli.ranks import run_on_ranks
from codd_lightning.cli.run_folder import RunFolder
from codd_lightning.cli.train import print_keys
from codd_lightning.cli.trained import open_trained
from codd_lightning.cli.world import require_lasting_folder, require_world
from codd_lightning.errors import UserError
from codd_lightning.evaluation import write_results

log = logging.getLogger("codd_lightning")


def evaluate_command(args: argparse.Namespace) -> int:
    """The command: measures what is trained already."""
    if args.experiment is None:
        raise UserError("codd evaluate needs an EXPERIMENT: a name in experiments/ or a path")
    processes = Processes.of_environment()
    processes.connect()
    try:
        config = compose_experiment(args.experiment, args.overrides)
        if args.help:
            print_keys("evaluate", args.experiment, config)
            return 0
        require_lasting_folder(config)
        config.output_dir = str(processes.first(lambda: RunFolder(config).path))
        if processes.size == 1 and config.trainer.devices > 1:
            require_world(config)
            run_on_ranks(_rank, config, config.trainer.devices)
        else:
            evaluate(config, processes)
    except KeyboardInterrupt:
        mend = f"the same command with output_dir={config.output_dir} decodes what is missing"
        raise KeyboardInterrupt(mend) from None
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
        _measure(config, trained, experiment, run, folder, processes)


def _measure(
    config: DictConfig,
    trained: DictConfig,
    experiment: Experiment,
    run: FinishedRun | None,
    folder: RunFolder,
    processes: Processes,
) -> None:
    manifest: Manifest | None = None
    if processes.rank == 0:
        log_to(folder.log_file)
        for option in without_effect(config):
            log.warning("%s has no effect here", option)
        warn_of_dropped(experiment, ["test"])
        log.info("%s → %s, measured by %d", config.experiment_name, folder.path, processes.size)
        if run is None:
            manifest = Manifest(folder, config)
            manifest.update(fingerprints={"backbone": fingerprint(experiment.backbone)})
    rows = measure(trained, experiment, folder.path, processes, discard=config.overwrite)
    if processes.rank:
        return
    seconds = 0.0
    if manifest is not None:
        manifest.update()
        seconds = manifest.seconds
    say(rows)
    if run is not None:
        run.note_measurement(config)
        rows = [*run.rows_beside(rows, "test"), *rows]
        seconds = run.results["seconds"]
    write_results(
        folder.results_file,
        experiment=config.experiment_name,
        seconds=seconds,
        parameters=count_parameters(experiment),
        metrics=rows,
    )
    folder.finish()
    log.info("results: %s", folder.results_file)
