"""What pyproject.toml promises of versions is what `make matrix` tries."""

import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[1]
# Not asked for by us: lightning's twin, and what matplotlib 3.9 calls by names that later ones deprecate.
OF_THEIR_TIME = {"pytorch-lightning", "pyparsing"}


def test_the_oldest_versions_that_are_tried_are_the_lower_bounds() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    bounds = {}
    for requirement in map(Requirement, declared):
        (bound,) = requirement.specifier
        assert bound.operator == ">="
        bounds[requirement.name] = Version(bound.version)
    tried = [line.split("==") for line in (ROOT / "constraints-oldest.txt").read_text().splitlines()]
    assert {name: Version(version) for name, version in tried if name not in OF_THEIR_TIME} == bounds
