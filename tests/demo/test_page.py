"""The page in a real browser, served by the command: clicked, typed at, and asked for nothing outside."""

import importlib.util
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from browser import CHROMIUM, Browser

from codd_lightning.circuits import HMM, save_circuit

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium is installed"),
    pytest.mark.skipif(importlib.util.find_spec("gradio") is None, reason="gradio is not installed"),
]
VOCAB_SIZE, BLOCK_LENGTH, PATIENCE = 141, 16, 30.0


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A page on a random circuit; Ctrl-C must end it with the status of one."""
    folder = tmp_path_factory.mktemp("demo")
    circuit = HMM(8, VOCAB_SIZE, BLOCK_LENGTH)
    circuit.reset_parameters(torch.Generator().manual_seed(0))
    save_circuit(circuit, folder / "outputs" / "quickstart" / "then" / "circuit")
    command = [sys.executable, "-m", "codd_lightning.cli.main", "demo"]
    with subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ}
    ) as server:
        try:
            assert server.stdout is not None
            taken, served = server.stdout.readline(), server.stdout.readline()
            assert taken == "codd demo: no --circuit was given; taking the newest, outputs/quickstart/then/circuit\n"
            assert served.startswith("codd demo: http://127.0.0.1:")
            yield served.split()[2]
            server.send_signal(signal.SIGINT)
            out, err = server.communicate(timeout=30)
            assert (out, err, server.returncode) == ("", "codd: interrupted\n", 130)
        finally:
            server.kill()  # and waited for, so that what is left of it spoils no other test


@pytest.fixture
def open_page(address: str, tmp_path: Path) -> Iterator[Callable[..., Browser]]:
    """Opens the page; in the end it must have had no fault, and asked this machine only."""
    opened: list[Browser] = []

    def open_it(**how: object) -> Browser:
        page = Browser(tmp_path / f"profile{len(opened)}", **how)  # type: ignore[arg-type]
        opened.append(page)
        page.open(address)
        page.wait("document.querySelector('#run')", PATIENCE)
        return page

    yield open_it
    try:
        for page in opened:
            assert page.faults == []
            assert [url for url in page.requests if not url.startswith((address, "data:", "blob:"))] == []
    finally:
        for page in opened:
            page.close()


def decode(page: Browser) -> int:
    """Clicks the button, and waits for a result; its steps."""
    page.click("#run")
    page.wait("document.querySelector('#result .codd')", PATIENCE)
    return int(page.evaluate("document.querySelector('.codd').dataset.steps"))


def wait_for_step(page: Browser, step: int, steps: int) -> None:
    page.wait(f"document.querySelector('.codd output').textContent === 'step {step} of {steps}'", PATIENCE)


def masked(page: Browser) -> list[int]:
    """How many tokens of each side are shown as masked."""
    sides = "[...document.querySelectorAll('.codd .tokens')]"
    return list(page.evaluate(f"{sides}.map(side => side.querySelectorAll('.masked').length)"))


def test_a_click_plays_both_decoders_to_the_end(open_page: Callable[..., Browser]) -> None:
    page = open_page()
    steps = decode(page)
    assert 4 <= steps <= 8  # of a block, and what is left in another
    wait_for_step(page, 1, steps)
    assert all(masked(page))
    wait_for_step(page, steps, steps)
    assert masked(page) == [0, 0]
    assert page.evaluate("document.querySelectorAll('.codd h3')[1].textContent") == "coupled: any_order"
    assert page.evaluate("document.querySelectorAll('.codd .tokens .changed').length") > 0
    assert page.evaluate("document.querySelectorAll('.codd tbody tr').length") > 0


def test_steps_go_forth_and_back(open_page: Callable[..., Browser]) -> None:
    page = open_page()
    steps = decode(page)
    wait_for_step(page, steps, steps)
    page.click(".codd .back")
    wait_for_step(page, steps - 1, steps)
    tokens = "[...document.querySelectorAll('.codd .tokens .token')]"
    shown = page.evaluate(f"{tokens}.map(token => !token.classList.contains('masked'))")
    assert shown == page.evaluate(f"{tokens}.map(token => +token.dataset.step < {steps})")
    assert not all(shown)
    page.click(".codd .forth")
    wait_for_step(page, steps, steps)
    page.press(".codd .player input", "ArrowLeft")
    wait_for_step(page, steps - 1, steps)


@pytest.mark.parametrize(
    ("field", "typed", "says"),
    [
        ("#prompt textarea", " ", "the prompt is empty: write a problem"),
        ("#prompt textarea", "coins " * 300, "the prompt has 300 tokens"),
        ("#steps input", "99", "steps per block 99 must be a whole number from 1 to 16"),
    ],
)
def test_bad_input_is_one_line_where_the_result_would_be(
    open_page: Callable[..., Browser], field: str, typed: str, says: str
) -> None:
    page = open_page()
    page.type(field, typed)
    page.click("#run")
    page.wait("document.querySelector('#result [role=alert]')", PATIENCE)
    said = str(page.evaluate("document.querySelector('#result').innerText.trim()"))
    assert said.startswith(says)
    assert "\n" not in said


def test_nothing_sticks_out_of_a_narrow_dark_window(open_page: Callable[..., Browser]) -> None:
    page = open_page(width=360, dark=True)
    decode(page)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    outside = "[...document.querySelectorAll('.codd *')].filter(e => e.getBoundingClientRect().right > innerWidth)"
    assert page.evaluate(f"{outside}.length") == 0
    assert page.evaluate("getComputedStyle(document.querySelector('.codd section')).backgroundColor") == (
        "rgb(20, 23, 27)"
    )
