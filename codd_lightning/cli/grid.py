"""`codd train -m`: every combination of comma-separated overrides, through Hydra's multirun."""

import sys
from collections.abc import Sequence
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from codd_lightning.cli.compose import CONFIG_MODULE, CONFIG_NAME, check, experiment_overrides
from codd_lightning.cli.run import run


def run_grid(experiment: str, overrides: Sequence[str]) -> int:
    """Runs one cell after another, each in a folder of its own under one for the grid."""
    with experiment_overrides(experiment) as chosen:
        fixed = [override.split("=")[0] for override in overrides if not _varies(override)]
        sweep = f"outputs/{Path(experiment).stem}/${{now:%Y-%m-%d_%H-%M-%S}}"
        sys.argv = [
            sys.argv[0],
            "--multirun",
            *chosen,
            f"hydra.sweep.dir={sweep}",
            "hydra.sweep.subdir=${hydra.job.override_dirname}",
            f"hydra.job.config.override_dirname.exclude_keys=[{','.join(['experiment', 'experiment_name', *fixed])}]",
            *overrides,
        ]
        hydra.main(version_base="1.3", config_path=f"pkg://{CONFIG_MODULE}", config_name=CONFIG_NAME)(_cell)()
    return 0


def _varies(override: str) -> bool:
    """Whether an override is a sweep, `key=a,b`; such keys name the folders of a grid."""
    value = override.split("=", 1)[-1]
    return "," in value and not value.startswith(("[", "{"))


def _cell(config: DictConfig) -> None:
    check(config)
    config.output_dir = HydraConfig.get().runtime.output_dir
    run(config)
