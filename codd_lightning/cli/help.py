"""The help of a command on an experiment: what the command takes, or every key and choice of an experiment.

Neither needs torch, and the first not even Hydra.
"""

import argparse

from codd_lightning.cli.arguments import experiment_arguments


def help_command(args: argparse.Namespace) -> int:
    """Prints the help of `args.command`, of its experiment if one is named.

    Raises:
        UserError: there is no such experiment, or an override does not fit it.
    """
    if args.experiment is None:
        experiment_arguments(args.command).print_help()
        return 0
    from omegaconf import OmegaConf

    from codd_lightning.cli.compose import choices, compose_experiment, keys_of

    grid = getattr(args, "multirun", False)
    config = compose_experiment(args.experiment, [] if grid else args.overrides)
    print(f"codd {args.command} {args.experiment} [key=value ...]\n\nkeys and their values in this experiment:")
    for key in keys_of(config):
        value = OmegaConf.select(config, key)
        if not OmegaConf.is_dict(value):
            print(f"  {key}={value}")
    print("\ngroups:")
    for group, names in choices().items():
        print(f"  {group}: {', '.join(names)}")
    return 0
