"""The help of a command on an experiment: what the command takes, or every key and choice of an experiment.

Neither needs torch, and the first not even Hydra.
"""

import argparse
from typing import TYPE_CHECKING, Any

from codd_lightning.cli.arguments import experiment_arguments

if TYPE_CHECKING:
    from omegaconf import DictConfig


def help_command(args: argparse.Namespace) -> int:
    """Prints the help of `args.command`, of its experiment if one is named.

    Raises:
        UserError: there is no such experiment, or an override does not fit it.
    """
    if args.experiment is None:
        experiment_arguments(args.command).print_help()
        return 0
    from codd_lightning.cli.compose import choices, compose_experiment

    grid = getattr(args, "multirun", False)
    config = compose_experiment(args.experiment, [] if grid else args.overrides)
    print(f"codd {args.command} {args.experiment} [key=value ...]\n\nkeys and their values in this experiment:")
    for override in overrides_of(config):
        print(f"  {override}")
    print("\ngroups:")
    for group, names in choices().items():
        print(f"  {group}: {', '.join(names)}")
    return 0


def overrides_of(config: "DictConfig") -> list[str]:
    """A configuration as the overrides that make it: every key with its value, lists whole."""
    from omegaconf import OmegaConf

    from codd_lightning.cli.compose import keys_of

    overrides = []
    for key in keys_of(config):
        if "[" in key:
            continue  # of an entry of a list
        value, raw = OmegaConf.select(config, key), _unresolved(config, key)
        if OmegaConf.is_list(value):
            overrides.append(f"{key}={raw if isinstance(raw, str) else _written(raw)}")
        elif not OmegaConf.is_dict(value):
            overrides.append(f"{key}={_written(value)}")
    return overrides


def _unresolved(config: "DictConfig", key: str) -> Any:
    """A value, or `${...}` where it is that of another key."""
    from omegaconf import OmegaConf

    value: Any = OmegaConf.to_container(config, resolve=False)
    for name in key.split("."):
        value = value[name]
    return value


def _written(value: object) -> str:
    """A value as an override has it; what an entry of a list leaves open is left out."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{', '.join(map(_written, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key}: {_written(entry)}' for key, entry in value.items() if entry is not None)}}}"
    return str(value)
