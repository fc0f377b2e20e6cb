"""Every experiment composes; what is wrong with an override ends in one line that names it and the mend."""

from pathlib import Path

import pytest

from codd_lightning.cli.arguments import quoted
from codd_lightning.cli.compose import EXPERIMENTS, choices, compose_experiment, keys_of
from codd_lightning.cli.grid import grid_cells
from codd_lightning.cli.help import overrides_of
from codd_lightning.errors import UserError

ALL_EXPERIMENTS = sorted(path.stem for path in EXPERIMENTS.glob("*.yaml"))


@pytest.mark.parametrize("name", ALL_EXPERIMENTS)
def test_every_shipped_experiment_composes(name: str) -> None:
    needed = {"gsm8k_circuit": ["backbone.path_or_repo=somewhere"], "parallelbench": ["data.path=somewhere"]}
    assert compose_experiment(name, needed.get(name, [])).experiment_name == name


README_LINES = [
    line.split("#")[0].split()
    for line in (Path(__file__).parents[2] / "README.md").read_text().splitlines()
    if line.startswith("codd train ") and ".yaml" not in line
]


@pytest.mark.parametrize("words", README_LINES, ids=" ".join)
def test_every_line_of_the_readme_composes(words: list[str]) -> None:
    overrides = [word for word in words[3:] if not word.startswith("-")]
    for cell in grid_cells(overrides):
        compose_experiment(words[2], cell)


@pytest.mark.parametrize(
    ("group", "choice"), [(group, choice) for group, names in choices().items() for choice in names]
)
def test_every_choice_of_every_group_composes(group: str, choice: str, tmp_path) -> None:
    if group == "experiment":
        pytest.skip("composed by name")
    if group == "rivals":
        pytest.skip("of one experiment: test_build.py composes them with it")
    plain = tmp_path / "plain.yaml"
    plain.write_text("# @package _global_\n")
    needed = {
        "pretrained": [f"{group}.path_or_repo=somewhere"],
        "parallelbench": ["data.path=somewhere"],
    }.get(choice, [])
    assert group in compose_experiment(str(plain), [f"{group}={choice}", *needed])


def test_an_experiment_file_of_the_users_own_is_found_by_its_path(tmp_path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("# @package _global_\ndefaults:\n  - override /circuit: hmm\ncircuit:\n  num_states: 7\n")
    config = compose_experiment(str(file), ["seed=3"])
    assert (config.experiment_name, config.circuit.num_states, config.seed) == ("mine", 7, 3)


@pytest.mark.parametrize(
    ("experiment", "overrides", "words"),
    [
        ("smoke", ["circuit.num_state=3"], ["circuit.num_state", "circuit=hmm", "did you mean circuit.num_states?"]),
        ("smoke", ["data.batch_siz=3"], ["data.batch_siz", "did you mean data.batch_size?"]),
        ("smoke", ["+new=3"], ["new is not an option"]),
        ("smoke", ["+circuit.depth=3"], ["circuit.depth is not an option"]),
        ("smoke", ["circuit.num_states=many"], ["circuit.num_states", "many"]),
        ("smoke", ["circuit.num_states=0"], ["circuit.num_states=0 must be at least 1"]),
        ("smoke", ["decoding.gamma=1.5"], ["decoding.gamma=1.5 must be at most 1"]),
        ("smoke", ["optimizer.lr=0"], ["optimizer.lr=0.0 must be above 0"]),
        ("smoke", ["circuit=hm"], ["circuit=hm is not a choice", "did you mean hmm?"]),
        ("smoke", ["foo"], ["foo", "key=value"]),
        ("smoke", ["backbone=pretrained"], ["backbone.path_or_repo must be given"]),
        ("smok", [], ["'smok'", "did you mean smoke?"]),
        ("nowhere/mine.yaml", [], ["nowhere/mine.yaml"]),
    ],
)
def test_what_is_wrong_is_named_with_its_mend(experiment: str, overrides: list[str], words: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        compose_experiment(experiment, overrides)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message


def test_an_unknown_key_in_an_experiment_file_is_named(tmp_path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("# @package _global_\ncircuit:\n  num_state: 7\n")
    with pytest.raises(UserError, match=r"circuit\.num_state"):
        compose_experiment(str(file), [])


def test_keys_are_listed_dotted() -> None:
    assert {"circuit.num_states", "data.task.min_steps", "trainer.max_epochs"} <= set(
        keys_of(compose_experiment("smoke", []))
    )


@pytest.mark.parametrize("experiment", ["quickstart", "one_step", "rivals", "table1_llada"])
def test_what_the_help_lists_are_the_overrides_that_make_the_experiment(experiment: str) -> None:
    changed = ["seed=3", "data.batch_size=7", "optimizer.betas=[0.5,0.6]", "evaluation.decoders=[{proposal: map}]"]
    config = compose_experiment(experiment, changed)
    listed = [line for line in overrides_of(config) if not line.endswith("=")]  # nothing to give
    assert len({line.partition("=")[0] for line in listed}) == len(listed)
    assert compose_experiment(experiment, listed) == config != compose_experiment(experiment, [])


@pytest.mark.parametrize("experiment", ["quickstart", "one_step", "structures", "table1_llada", "laptop"])
def test_an_experiment_goes_on_from_any_circuit(experiment: str) -> None:
    config = compose_experiment(experiment, ["circuit=pretrained", "circuit.path_or_repo=learnt"])
    assert config.circuit.path_or_repo == "learnt"


@pytest.mark.parametrize("value", ["a/objective.canvas=block", "a/circuit.num_states=8,seed=0", "a/b=c=d"])
def test_a_folder_that_a_grid_named_needs_no_quotes(value: str) -> None:
    assert compose_experiment("smoke", [quoted(f"output_dir={value}")]).output_dir == value


@pytest.mark.parametrize(
    "override",
    ["seed=1", "seed=1,2", "output_dir='a=b'", "seed=range(start=1,stop=3)", 'run="a=[b]"', "a={b: c}", "+a"],
)
def test_what_hydra_reads_is_left_to_it(override: str) -> None:
    assert quoted(override) == override
