"""What the documentation shows, runs."""

import re
from pathlib import Path

import pytest

from codd_lightning.backbones.families import FAMILIES
from codd_lightning.cli.arguments import EXPERIMENT_COMMANDS
from codd_lightning.cli.compose import compose_experiment
from codd_lightning.decoding.question import PROPOSALS
from codd_lightning.decoding.remasking import REMASKING

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# A value for what a page leaves open.
OPEN = {
    "FOLDER": "somewhere",
    "RUN": "somewhere",
    "CLONE": "somewhere",
    "TRAIN.jsonl": "a.jsonl",
    "TEST.jsonl": "b.jsonl",
}


def blocks(page: Path, language: str) -> list[str]:
    return [body for found, body in FENCE.findall(page.read_text()) if found == language]


def commands(page: Path) -> list[list[str]]:
    """Every `codd` command on an experiment that a page shows."""
    found = []
    for body in [*blocks(page, "bash"), *blocks(page, "")]:
        for line in body.replace("\\\n", " ").splitlines():
            words = re.findall(r"'[^']*'|\"[^\"]*\"|\S+", line.split(" #")[0])
            if len(words) > 2 and words[0] == "codd" and words[1] in EXPERIMENT_COMMANDS and words[2][0].islower():
                found.append([word.strip("'\"") for word in words[1:]])
    return found


ALL = [(page.name, command) for page in PAGES for command in commands(page)]


def test_commands_are_found() -> None:
    assert len(ALL) > 20


@pytest.mark.parametrize(("page", "command"), ALL, ids=[f"{page}-{' '.join(c)[:60]}" for page, c in ALL])
def test_a_command_of_the_documentation_composes(page: str, command: list[str]) -> None:
    experiment, *overrides = command[1:]
    if "yaml" in experiment.lower() or any(word.startswith("EXPERIMENT") for word in command):
        return
    given = []
    for override in overrides:
        if override in ("-m", "--help", "...", "&&"):
            continue
        if "=" not in override or override.startswith(("hydra", "--")):
            continue
        key, _, value = override.partition("=")
        if "{" in key:  # several keys, for the shell to spell out
            continue
        if "-m" in overrides and "," in value and not value.startswith(("[", "{")):
            value = value.split(",")[0]  # the first cell of a grid
        given.append(f"{key}={OPEN.get(value, value)}")
    if experiment in ("gsm8k_circuit",) and not any(g.startswith("backbone.path_or_repo") for g in given):
        given.append("backbone.path_or_repo=somewhere")
    assert compose_experiment(experiment, given).experiment_name == experiment


def test_the_examples_of_how_to_add_a_part_run() -> None:
    known = dict(FAMILIES), dict(PROPOSALS), dict(REMASKING)
    names: dict[str, object] = {}
    try:
        for number, body in enumerate(blocks(ROOT / "docs" / "extending.md", "python"), 1):
            exec(compile(body, f"docs/extending.md, block {number}", "exec"), names)
    finally:
        for table, before in zip((FAMILIES, PROPOSALS, REMASKING), known, strict=True):
            table.clear()
            table.update(before)
