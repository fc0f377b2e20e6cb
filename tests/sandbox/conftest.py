"""Every sandbox that this system has."""

import pytest

from codd_lightning.errors import UserError
from codd_lightning.sandbox import run_python


@pytest.fixture(scope="session", params=["namespaces", "bubblewrap", "rlimits"])
def sandbox(request: pytest.FixtureRequest) -> str:
    """The name of a sandbox; skips with the reason where it cannot be had."""
    name: str = request.param
    try:
        run_python("pass", sandbox=name)
    except UserError as refusal:
        pytest.skip(str(refusal))
    return name


@pytest.fixture
def walls(sandbox: str) -> str:
    """A sandbox with namespaces of its own: limits alone hide neither files nor processes."""
    if sandbox == "rlimits":
        pytest.skip("limits alone hide nothing")
    return sandbox
