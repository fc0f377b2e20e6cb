"""`codd train`: one run, or a grid of them."""

import argparse

from codd_lightning.cli.compose import compose_experiment
from codd_lightning.cli.grid import run_grid
from codd_lightning.cli.ranks import start
from codd_lightning.errors import UserError


def train_command(args: argparse.Namespace) -> int:
    """The command: one run, or a grid."""
    if args.experiment is None:
        raise UserError("codd train needs an EXPERIMENT: a name in experiments/ or a path; try codd train quickstart")
    config = compose_experiment(args.experiment, [] if args.multirun else args.overrides)
    if args.multirun:
        return run_grid(args.experiment, args.overrides)
    for override in args.overrides:
        if override.startswith("hydra"):
            raise UserError(f"{override} is for grids: add -m")
    start(config, args.overrides)
    return 0
