from pathlib import Path

import pytest

from .fixtures import copy_of


@pytest.fixture
def llada(tmp_path: Path) -> Path:
    """A copy of llada-tiny to spoil."""
    return copy_of("llada-tiny", tmp_path)


@pytest.fixture
def a2d(tmp_path: Path) -> Path:
    """A copy of a2d-qwen3-tiny to spoil."""
    return copy_of("a2d-qwen3-tiny", tmp_path)
