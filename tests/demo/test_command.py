"""`codd demo` before there is a page: what it refuses, and which circuit it takes."""

import importlib.util
import os
import socket
from pathlib import Path

import pytest

from codd_lightning.cli.demo import newest_circuit
from codd_lightning.cli.main import main


def test_without_gradio_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "gradio" else find(name, *a))
    assert main(["demo"]) == 2
    assert capsys.readouterr().err == "codd: codd demo needs gradio: pip install 'codd-lightning[demo]'\n"


@pytest.mark.skipif(importlib.util.find_spec("gradio") is None, reason="gradio is not installed")
@pytest.mark.parametrize(
    ("options", "says"),
    [
        ([], "there is no circuit in outputs/quickstart: train one with codd train quickstart, or give --circuit"),
        (["--port", "0"], "--port 0 must lie in [1, 65535]"),
        (["--host", "203.0.113.9"], "the page cannot be served at 203.0.113.9 ("),
        (["--host", "a..b"], "the page cannot be served at a..b ("),
        (["--seed", "-1"], "--seed -1 must lie in [0, 2^63)"),
        (["--circuit", "nowhere"], "nowhere"),
    ],
)
def test_what_is_wrong_is_one_line(
    options: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert main(["demo", *options]) == 2
    error = capsys.readouterr().err
    assert error.startswith("codd: ")
    assert says in error
    assert error.count("\n") == 1


def test_the_newest_circuit_is_taken(tmp_path: Path) -> None:
    for age, name in enumerate(("b", "c", "a")):
        weights = tmp_path / name / "circuit" / "model.safetensors"
        weights.parent.mkdir(parents=True)
        weights.touch()
        os.utime(weights, (1000 - age, 1000 - age))
    (tmp_path / "unfinished").mkdir()
    assert newest_circuit(tmp_path) == tmp_path / "b" / "circuit"


@pytest.mark.skipif(importlib.util.find_spec("gradio") is None, reason="gradio is not installed")
def test_a_taken_port_is_refused_before_anything_is_loaded(capsys: pytest.CaptureFixture) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["demo", "--port", str(port), "--circuit", "nowhere"]) == 2
    assert capsys.readouterr().err.startswith(f"codd: the page cannot be served at 127.0.0.1:{port} (Address already")
