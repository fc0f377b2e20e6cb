"""What tests of commands share."""

from pathlib import Path

import pytest

from codd_lightning.cli.main import main

from .small import SMALL


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small finished run; whoever changes it works on a copy."""
    folder = tmp_path_factory.mktemp("runs") / "smoke"
    assert main(["train", "smoke", *SMALL, f"output_dir={folder}"]) == 0
    return folder
