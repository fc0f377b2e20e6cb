"""`codd cache`: the frozen backbone is run once, and its evidence kept for training."""

import argparse
import shlex
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from omegaconf import DictConfig

from codd_lightning.cli.build import Experiment, build
from codd_lightning.cli.cache_settings import asking_callbacks, new_cache, require_cacheable, require_stored
from codd_lightning.cli.compose import compose_experiment
from codd_lightning.cli.console import log_to, quiet_libraries
from codd_lightning.cli.feasible import require_feasible
from codd_lightning.cli.manifest import fingerprint
from codd_lightning.cli.processes import Processes
from codd_lightning.cli.progress import show_progress
from codd_lightning.cli.ranks import run_on_ranks
from codd_lightning.cli.slurm import progress
from codd_lightning.data import CacheFolder
from codd_lightning.errors import UserError
from codd_lightning.modules import write_evidence

LOWER_PRECISION = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


def cache_command(args: argparse.Namespace) -> int:
    """The command: writes a cache, or its own share of one."""
    if args.experiment is None:
        raise UserError("codd cache needs an EXPERIMENT: a name in experiments/ or a path; try codd cache smoke")
    config = compose_experiment(args.experiment, args.overrides)
    experiment, folder = _prepared(config)
    progress.watch(folder.path, "*.arrow")
    processes = Processes.of_environment()
    if processes.size == 1 and config.trainer.devices > 1:
        run_on_ranks(_rank, config, config.trainer.devices)
    else:
        _write(config, experiment, folder, processes)
    if folder.finish():
        _say_goodbye(config, args, folder)
    return 0


def _rank(config: DictConfig, rank: int) -> None:
    """One of several processes on this machine."""
    experiment, folder = _prepared(config)
    _write(config, experiment, folder, Processes.of_environment())


def _prepared(config: DictConfig) -> tuple[Experiment, CacheFolder]:
    """What is run, and the folder that its evidence belongs in, begun.

    Raises:
        UserError: the experiment has no use for a cache, or the folder holds another one.
    """
    require_cacheable(config)
    log_to(None, speaks=Processes.of_environment().rank == 0)
    quiet_libraries()
    given = config.cache.path
    config.cache.path = None  # what is written here is not read
    experiment = build(config)
    config.cache.path = given
    require_feasible(config, experiment)
    if config.cache.top_k is not None and config.cache.top_k > experiment.backbone.vocab_size:
        raise UserError(
            f"cache.top_k={config.cache.top_k} is more than the vocabulary of {experiment.backbone.vocab_size}: "
            "use cache.top_k=null to keep all of it"
        )
    if config.cache.hidden is not None and getattr(experiment.backbone, "hidden_size", None) is None:
        raise UserError(
            f"cache.hidden={config.cache.hidden}: this backbone gives no hidden states; use cache.hidden=null"
        )
    if experiment.circuit is not None:
        require_stored(config, experiment.circuit)
    folder = new_cache(config, experiment.data, fingerprint(experiment.backbone))
    folder.start()
    return experiment, folder


def _write(config: DictConfig, experiment: Experiment, folder: CacheFolder, processes: Processes) -> None:
    """This process's shards, with a line that tells how far it is."""
    options = config.trainer
    device = "cpu"
    if options.accelerator == "gpu":
        device = f"cuda:{processes.local_rank % torch.cuda.device_count()}"
    threads = options.num_threads or max(torch.get_num_threads() // config.trainer.devices, 1)
    torch.set_num_threads(threads)
    mine = folder.shards[processes.rank :: processes.size]
    there = sum(shard.stop - shard.start for shard in mine if folder.holds(shard))
    total = sum(shard.stop - shard.start for shard in mine)
    shown = options.progress_bar and processes.rank == 0
    if processes.rank == 0:
        print(f"{folder.path}: {len(folder.shards)} shards, {sum(map(folder.holds, folder.shards))} of them there")
    with show_progress(total, "example", "evidence", shown, there) as advance:
        write_evidence(
            folder,
            experiment.backbone.to(device).eval(),
            experiment.data,
            experiment.noise,
            top_k=config.cache.top_k,
            dtype=config.cache.dtype,
            hidden=config.cache.hidden,
            before=config.cache.before,
            rank=processes.rank,
            world_size=processes.size,
            precision=_precision(options.precision, device),
            progress=advance,
        )


def _precision(name: str, device: str) -> Callable[[], AbstractContextManager[Any]]:
    """The context that the trainer would run the backbone in."""
    if name not in LOWER_PRECISION:
        return nullcontext
    return partial(torch.autocast, torch.device(device).type, LOWER_PRECISION[name])


def _say_goodbye(config: DictConfig, args: argparse.Namespace, folder: CacheFolder) -> None:
    shards = folder.index().values()
    size, rows = sum(shard["bytes"] for shard in shards), sum(shard["rows"] for shard in shards)
    print(f"{folder.path}: complete, {rows:,} blocks, {size / 2**20:,.1f} MiB")
    print(f"next:\n  {shlex.join(_training(config, args.experiment, args.overrides, folder))}")


def _training(config: DictConfig, experiment: str, overrides: Sequence[str], folder: CacheFolder) -> list[str]:
    """The command that trains from a cache."""
    kept = [override for override in overrides if not override.startswith("cache.path=")]
    without = ["callbacks=none"] if asking_callbacks(config) else []
    return ["codd", "train", experiment, *kept, *without, f"cache.path={folder.path}"]
