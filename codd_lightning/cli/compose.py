"""From an experiment's name and overrides to one checked configuration."""

import dataclasses
import difflib
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_module
from hydra.errors import HydraException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, MissingMandatoryValue, OmegaConfBaseException

from codd_lightning.configs.schema import register
from codd_lightning.errors import UserError

CONFIG_MODULE = "codd_lightning.configs"
CONFIG_NAME = "main"
EXPERIMENTS = Path(__file__).parents[1] / "configs" / "experiment"


def compose_experiment(experiment: str, overrides: Sequence[str]) -> DictConfig:
    """The configuration of one run.

    Args:
        experiment: a name in experiments/, or a path to a YAML file.
        overrides: `key=value` changes.

    Raises:
        UserError: there is no such experiment, key, choice or type; one line that names the mend.
    """
    register()
    with experiment_overrides(experiment) as chosen, initialize_config_module(CONFIG_MODULE, version_base="1.3"):
        try:
            config = compose(CONFIG_NAME, overrides=[*chosen, *overrides])
        except (HydraException, OmegaConfBaseException) as error:
            raise UserError(_explain(error, experiment, chosen)) from None
    require_known_keys(config)
    _require_values(config)
    return config


@contextmanager
def experiment_overrides(experiment: str) -> Iterator[list[str]]:
    """Hydra overrides that select an experiment by name, or by the path of its file."""
    path = Path(experiment)
    if path.suffix in (".yaml", ".yml"):
        if not path.is_file():
            raise UserError(f"there is no experiment file at {experiment}")
        with tempfile.TemporaryDirectory() as folder:
            group = Path(folder) / "experiment"
            group.mkdir()
            (group / f"{path.stem}.yaml").symlink_to(path.resolve())
            yield [
                f"hydra.searchpath=[file://{folder}]",
                f"experiment={path.stem}",
                f"experiment_name={path.stem}",
            ]
        return
    known = sorted(file.stem for file in EXPERIMENTS.glob("*.yaml"))
    if experiment not in known:
        raise UserError(f"there is no experiment {experiment!r}{_hint(experiment, known)}; there are: {', '.join(known)}")
    yield [f"experiment={experiment}", f"experiment_name={experiment}"]


def require_known_keys(config: DictConfig) -> None:
    """Refuses keys that `+key=value` smuggled past the schemas.

    Raises:
        UserError: names the key and the nearest valid one.
    """
    for prefix, node in _nodes(config):
        schema = OmegaConf.get_type(node)
        if not dataclasses.is_dataclass(schema):
            continue
        known = [field.name for field in dataclasses.fields(schema)]
        for key in node:
            if key not in known:
                full = f"{prefix}{key}"
                raise UserError(f"{full} is not an option{_hint(str(key), known, prefix)}")


def keys_of(config: DictConfig) -> list[str]:
    """Every key of a configuration, dotted."""
    return [f"{prefix}{key}" for prefix, node in _nodes(config) for key in node if key != "_target_"]


def choices() -> dict[str, list[str]]:
    """Every config group with its choices."""
    folder = EXPERIMENTS.parent
    groups = sorted(path for path in folder.iterdir() if path.is_dir() and any(path.glob("*.yaml")))
    return {group.name: sorted(file.stem for file in group.glob("*.yaml")) for group in groups}


def _nodes(config: DictConfig, prefix: str = "") -> Iterator[tuple[str, DictConfig]]:
    yield prefix, config
    for key in config:
        if OmegaConf.is_missing(config, key):
            continue
        value = config[key]
        if isinstance(value, DictConfig):
            yield from _nodes(value, f"{prefix}{key}.")
        elif isinstance(value, ListConfig):
            for i, item in enumerate(value):
                if isinstance(item, DictConfig):
                    yield from _nodes(item, f"{prefix}{key}[{i}].")


def _require_values(config: DictConfig) -> None:
    try:
        missing = OmegaConf.missing_keys(config)
    except MissingMandatoryValue as error:
        raise UserError(str(error).splitlines()[0]) from None
    if missing:
        key = sorted(missing)[0]
        raise UserError(f"{key} must be given: add {key}=VALUE")


def _explain(error: Exception, experiment: str, chosen: Sequence[str]) -> str:
    """One line for what composition found wrong."""
    cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else error
    first_line = str(cause).splitlines()[0] if str(cause) else type(cause).__name__
    key = getattr(cause, "full_key", None)
    if isinstance(cause, ConfigKeyError | AttributeError) and key:
        group = str(key).split(".")[0]
        place = f" of {group}={_choice(chosen, group)}" if _choice(chosen, group) else ""
        return f"{key} is not an option{place}{_hint(str(key), _valid_keys(chosen))}"
    if key:
        return f"{key}: {first_line}"
    return first_line if str(error).splitlines()[0] == first_line else f"{str(error).splitlines()[0]} {first_line}"


def _base(chosen: Sequence[str]) -> DictConfig | None:
    """The experiment without the user's overrides; None if that does not compose either."""
    try:
        return compose(CONFIG_NAME, overrides=list(chosen), return_hydra_config=True)
    except (HydraException, OmegaConfBaseException):
        return None


def _valid_keys(chosen: Sequence[str]) -> list[str]:
    base = _base(chosen)
    return [key for key in keys_of(base) if not key.startswith("hydra")] if base is not None else []


def _choice(chosen: Sequence[str], group: str) -> Any:
    base = _base(chosen)
    return base.hydra.runtime.choices.get(group) if base is not None else None


def _hint(word: str, known: Sequence[str], prefix: str = "") -> str:
    close = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {prefix}{close[0]}?" if close else ""

