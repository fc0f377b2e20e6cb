"""`codd train`: one run, a grid of them, or the help of an experiment."""

import argparse

from omegaconf import DictConfig, OmegaConf

from codd_lightning.cli.arguments import experiment_arguments
from codd_lightning.cli.compose import choices, compose_experiment, keys_of
from codd_lightning.cli.grid import run_grid
from codd_lightning.cli.ranks import start
from codd_lightning.errors import UserError


def train_command(args: argparse.Namespace) -> int:
    """The command: one run, the help of an experiment, or a grid."""
    if args.experiment is None and args.help:
        experiment_arguments("train").print_help()
        return 0
    if args.experiment is None:
        raise UserError("codd train needs an EXPERIMENT: a name in experiments/ or a path; try codd train quickstart")
    config = compose_experiment(args.experiment, [] if args.multirun else args.overrides)
    if args.help:
        print_keys("train", args.experiment, config)
        return 0
    if args.multirun:
        return run_grid(args.experiment, args.overrides)
    for override in args.overrides:
        if override.startswith("hydra"):
            raise UserError(f"{override} is for grids: add -m")
    start(config, args.overrides)
    return 0


def print_keys(command: str, experiment: str, config: DictConfig) -> None:
    """The help of an experiment: every key with its value, every group with its choices."""
    print(f"codd {command} {experiment} [key=value ...]\n\nkeys and their values in this experiment:")
    for key in keys_of(config):
        value = OmegaConf.select(config, key)
        if not OmegaConf.is_dict(value):
            print(f"  {key}={value}")
    print("\ngroups:")
    for group, names in choices().items():
        print(f"  {group}: {', '.join(names)}")
