"""From an experiment's name and overrides to one checked configuration."""

import dataclasses
import difflib
import math
import operator
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from hydra import compose, initialize_config_module
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from codd_lightning.configs.schema import register
from codd_lightning.errors import UserError

CONFIG_MODULE = "codd_lightning.configs"
CONFIG_NAME = "main"
# Overrides that choose an experiment, a place, or how a run is shown.
NOT_OF_THE_COMPUTATION = ("experiment", "experiment_name", "output_dir", "overwrite", "trainer.progress_bar")
# Objects that no run can do without.
PARTS = ("backbone", "circuit", "data.task", "objective", "optimizer", "trainer.strategy")
EXPERIMENTS = Path(__file__).parents[1] / "configs" / "experiment"


def compose_experiment(experiment: str, overrides: Sequence[str], whole: bool = False) -> DictConfig:
    """The configuration of one run.

    Args:
        experiment: a name in experiments/, or a path to a YAML file.
        overrides: `key=value` changes.
        whole: keep Hydra's own part, which names the sweep of a grid.

    Raises:
        UserError: there is no such experiment, key, choice or type; one line that names the mend.
    """
    register()
    for override in overrides:
        key, _, value = override.partition("=")
        if not key:
            raise UserError(f"{override!r} has no key before its =; write key=value")
        if key in choices() and value == "null":
            raise UserError(f"{override} is not a choice; there are: {', '.join(choices()[key])}")
    with experiment_overrides(experiment) as chosen, initialize_config_module(CONFIG_MODULE, version_base="1.3"):
        try:
            config = compose(CONFIG_NAME, overrides=[*chosen, *overrides], return_hydra_config=whole)
        except yaml.MarkedYAMLError as error:
            place = (
                f"{error.problem_mark.name}, line {error.problem_mark.line + 1}" if error.problem_mark else experiment
            )
            raise UserError(f"{place}: not valid YAML: {error.problem}") from None
        except (HydraException, OmegaConfBaseException, ValueError) as error:
            raise UserError(_explain(error, chosen, overrides)) from None
    if not whole:
        check(config)
    return config


def check(config: DictConfig) -> None:
    """What composition lets through: keys added by `+key=value`, missing values, values out of range.

    Raises:
        UserError: names the key, its value and the mend.
    """
    try:
        OmegaConf.resolve(config.copy())
    except OmegaConfBaseException as error:
        raise UserError(str(error).splitlines()[0]) from None
    _require_parts(config)
    require_known_keys(config)
    _require_values(config)
    _require_ranges(config)


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
        raise UserError(
            f"there is no experiment {experiment!r}{_hint(experiment, known)}; there are: {', '.join(known)}"
        )
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
        for key in map(str, node):
            if key not in known:
                raise UserError(f"{prefix}{key} is not an option{_hint(key, known, prefix)}")


def callbacks_of(config: DictConfig) -> Iterator[tuple[str, DictConfig]]:
    """The callbacks that are switched on; `callbacks=none` leaves an experiment's settings of others without one."""
    for name, callback in config.callbacks.items():
        if "_target_" in callback and callback.get("enabled", True):
            yield str(name), callback


def without_effect(config: DictConfig) -> dict[str, Any]:
    """Options that are set and that the chosen parts do not use: their values by dotted key."""
    return {
        f"{prefix}{option.name}": node[option.name]
        for prefix, node in _nodes(config)
        if dataclasses.is_dataclass(schema := OmegaConf.get_type(node))
        for option in dataclasses.fields(schema)
        if option.metadata.get("unused") and node[option.name] is not None
    }


def settings_of(config: DictConfig, overrides: Sequence[str]) -> dict[str, Any]:
    """What overrides set of a computation, by dotted key: a number, a truth value, or the text of anything else."""
    set_: dict[str, Any] = {}
    for override in overrides:
        key, _, text = override.lstrip("+~").partition("=")
        if key.startswith("hydra") or key in NOT_OF_THE_COMPUTATION:
            continue
        value = OmegaConf.select(config, key)
        set_[key] = value if isinstance(value, bool | int | float | str) else text
    return set_


def keys_of(config: DictConfig) -> list[str]:
    """Every key of a configuration, dotted."""
    return [f"{prefix}{key}" for prefix, node in _nodes(config) for key in map(str, node) if key != "_target_"]


def choices() -> dict[str, list[str]]:
    """Every config group with its choices, those of its folders too but for the paper's, which a backbone chooses."""
    folder = EXPERIMENTS.parent
    groups = sorted(path for path in folder.iterdir() if path.is_dir() and any(path.glob("*.yaml")))
    files = {group: [file for file in group.rglob("*.yaml") if file.parent.name != "paper"] for group in groups}
    return {
        group.name: sorted(str(file.relative_to(group).with_suffix("")) for file in files[group]) for group in groups
    }


def _nodes(config: DictConfig, prefix: str = "") -> Iterator[tuple[str, DictConfig]]:
    yield prefix, config
    for key in map(str, config):
        if OmegaConf.is_missing(config, key):
            continue
        value = config[key]
        if isinstance(value, DictConfig):
            yield from _nodes(value, f"{prefix}{key}.")
        elif isinstance(value, ListConfig):
            for i, item in enumerate(value):
                if isinstance(item, DictConfig):
                    yield from _nodes(item, f"{prefix}{key}[{i}].")


def _require_parts(config: DictConfig) -> None:
    """Refuses what `name=null` or `~name` took away and no run can do without."""
    for name in PARTS:
        part = OmegaConf.select(config, name)
        if not isinstance(part, DictConfig) or "_target_" not in part:
            known = ", ".join(choices().get(name, []))
            raise UserError(f"{name} is missing: " + (f"choose one of {known}" if known else "it cannot be null"))
    for name, callback in config.callbacks.items():
        if callback is None:
            raise UserError(f"callbacks.{name}=null: use ~callbacks.{name} or callbacks=none to go without")
        if "_target_" not in callback and str(name) not in choices()["callbacks"]:
            raise UserError(f"callbacks.{name} is not a callback{_hint(str(name), choices()['callbacks'])}")
    if config.output_dir == "":
        raise UserError("output_dir is empty: name a folder, or leave it out")


def _require_values(config: DictConfig) -> None:
    missing = sorted(OmegaConf.missing_keys(config))
    if missing:
        raise UserError(f"{missing[0]} must be given: add {missing[0]}=VALUE")


def _require_ranges(config: DictConfig) -> None:
    for prefix, node in _nodes(config):
        schema = OmegaConf.get_type(node)
        if not dataclasses.is_dataclass(schema):
            continue
        for option in dataclasses.fields(schema):
            value = node[option.name]
            if not isinstance(value, int | float):
                continue
            if not math.isfinite(value):
                raise UserError(f"{prefix}{option.name}={value} must be a finite number")
            for bound, words, holds in (
                ("minimum", "at least", operator.ge),
                ("maximum", "at most", operator.le),
                ("above", "above", operator.gt),
            ):
                limit = option.metadata.get(bound)
                if limit is not None and not holds(value, limit):
                    raise UserError(f"{prefix}{option.name}={value} must be {words} {limit:g}")


def _explain(error: Exception, chosen: Sequence[str], overrides: Sequence[str]) -> str:
    """One line for what composition found wrong."""
    causes = list(_causes(error)) or [error]
    cause = next((c for c in causes if getattr(c, "full_key", None)), causes[-1])
    first_line = str(cause).splitlines()[0] if str(cause) else type(cause).__name__
    key = getattr(cause, "full_key", None)
    source = next((str(c).split(":")[0] for c in causes if str(c).startswith("In 'experiment/")), None)
    where = f" (i{source[1:]})" if source else ""
    if isinstance(cause, ConfigKeyError | ConfigAttributeError) and key:
        keys, selected = _experiment_itself(chosen)
        selected |= dict(o.split("=", 1) for o in overrides if o.split("=")[0] in choices())
        group = str(key).split(".")[0]
        place = f" of {group}={selected[group]}" if group in selected else ""
        mend = ", which sets it: start from another experiment" if source else _hint(str(key), keys)
        return f"{key} is not an option{place}{where}{mend}"
    if isinstance(error, MissingConfigException):
        group, _, name = (error.missing_cfg_file or "").partition("/")
        if group in choices():
            known = choices()[group]
            return f"{group}={name} is not a choice{_hint(name, known)}; there are: {', '.join(known)}"
    if key and "is not a ListConfig" in first_line:
        return f"{key} takes a list, in brackets{where}"
    if key:
        return f"{key}: {first_line}{where}"
    if "mbiguous value" in first_line:
        return f"{first_line}: lists of values are for grids: add -m"
    if isinstance(error, OverrideParseException):
        return f"{error.override} is not of the form key=value"
    return first_line


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error of composition and what it came from, the first cause last."""
    current: BaseException | None = error
    while isinstance(current, HydraException | OmegaConfBaseException):
        yield current
        current = current.__cause__ or current.__context__


def _experiment_itself(chosen: Sequence[str]) -> tuple[list[str], dict[str, Any]]:
    """Keys, and the choice of each group, of the experiment without the user's overrides; empty if it fails."""
    try:
        base = compose(CONFIG_NAME, overrides=list(chosen), return_hydra_config=True)
    except (HydraException, OmegaConfBaseException):
        return [], {}
    selected = {group.split("@")[0].strip("/"): choice for group, choice in base.hydra.runtime.choices.items()}
    OmegaConf.set_struct(base, False)
    del base["hydra"]
    return keys_of(base), selected


def _hint(word: str, known: Sequence[str], prefix: str = "") -> str:
    close = [match for match in difflib.get_close_matches(word, known, n=1) if match != word]
    return f"; did you mean {prefix}{close[0]}?" if close else ""
