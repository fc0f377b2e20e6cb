"""The report's page in a real browser: clicked, typed at, and fed hostile text."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import CHROMIUM, Browser

from codd_lightning.cli.main import main

from .report_runs import HOSTILE, two_decoders, write_run

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium is installed")


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page of two runs; what the second's model says is hostile."""
    outputs = tmp_path_factory.mktemp("outputs")
    rows, samples = two_decoders(better=20, problems=60)
    write_run(outputs / "plain", rows, samples)
    hostile = [{**record, "prompt": HOSTILE, "pieces": [HOSTILE, "Ġspace"]} for record in samples]
    write_run(outputs / "<img src=x onerror=alert(1)>", rows, hostile)
    assert main(["report", str(outputs), "--html"]) == 0
    return outputs / "report" / "report.html"


@pytest.fixture
def page(report: Path, tmp_path: Path) -> Iterator[Browser]:
    """The page, open; in the end it must have had no fault and asked for nothing."""
    opened = Browser(tmp_path / "profile")
    try:
        opened.open(report.as_uri())
        yield opened
        assert opened.faults == []
        assert opened.requests == [report.as_uri()]
        assert opened.evaluate("document.title") == "Report of 2 runs"
    finally:
        opened.close()


def view(page: Browser, what: str = "textContent") -> str:
    return str(page.evaluate(f"document.getElementById('view').{what}"))


def shown(page: Browser, text: str) -> None:
    """Waits for what only the new view says; the old one stays until then."""
    page.wait(f"document.getElementById('view').textContent.includes({json.dumps(text)})")


def test_a_click_sorts_by_size_and_a_second_one_turns_it_round(page: Browser) -> None:
    last = page.evaluate("document.querySelectorAll('section').length - 3")  # every number
    column = f"[...document.querySelectorAll('#table{last} tbody td:nth-child(5)')].map(c => +c.dataset.number)"
    header = f"#table{last} th:nth-child(5)"
    page.click(f"{header} button")
    page.wait(f"document.querySelector('{header}').getAttribute('aria-sort') === 'ascending'")
    values = page.evaluate(column)
    assert len(values) == 4
    assert values == sorted(values)
    page.click(f"{header} button")
    page.wait(f"document.querySelector('{header}').getAttribute('aria-sort') === 'descending'")
    assert page.evaluate(column) == sorted(values, reverse=True)


def test_a_cell_leads_to_its_samples_and_back_is_possible(page: Browser) -> None:
    page.click("a[href='#samples/3']")  # of "plain", the coupled decoder
    shown(page, "plain · any_order · 4 steps per block")
    text = view(page)
    assert "The first 50 of 60 samples." in text
    assert "problem number 49" in text
    assert "problem number 50" not in text


def test_two_decoders_are_compared_token_by_token(page: Browser) -> None:
    page.evaluate("location.hash = '#samples/2'")
    page.wait("document.getElementById('first').value === '2'")
    page.press("#second", "ArrowDown")
    page.press("#second", "ArrowDown")
    page.wait("location.hash === '#compare/2/3'")
    shown(page, "both 0, only the first 0, only the second 20, neither 30")
    marks = "[...document.querySelectorAll('#view article:first-of-type mark')].map(m => m.textContent)"
    assert page.evaluate(marks) == ["two", "three"]  # "one two two" against "one two three"
    page.press("#only", "ArrowDown")
    page.wait("document.querySelectorAll('#view article').length === 20")


@pytest.mark.parametrize("address", ["#compare/0/1", "#samples/0", "#compare/0/3"])
def test_what_a_model_said_is_shown_as_text_and_nothing_more(page: Browser, address: str) -> None:
    page.evaluate(f"location.hash = '{address}'")
    page.wait("document.querySelector('#view h2') !== null")
    assert page.evaluate("document.querySelectorAll('img, #view script').length") == 0
    if address != "#compare/0/3":  # the problems of different runs are matched by their texts: none is shared
        assert HOSTILE in view(page)
        assert " space" in page.evaluate("document.querySelector('#view .said').textContent")
    else:
        assert "0 problems in common" in view(page)


@pytest.mark.parametrize("address", ["#compare/0", "#samples/99", "#samples/__proto__", "#compare/-1/0", "#samples/"])
def test_an_address_of_nothing_shows_nothing(page: Browser, address: str) -> None:
    page.evaluate(f"location.hash = '{address}'")
    page.call("Runtime.evaluate", expression="new Promise(r => setTimeout(r, 50))", awaitPromise=True)
    assert view(page) == ""


def test_the_diff_marks_as_few_tokens_as_possible(page: Browser) -> None:
    for a, b in (
        (["a"], []),
        ([], []),
        (list("abcab"), list("bcaab")),
        (list("xaxb"), list("ayb")),
        (list("kitten"), list("sitting")),
    ):
        marked = page.evaluate(f"differing({a!r}, {b!r}).map(marks => [...marks])")
        kept = [
            [token for i, token in enumerate(tokens) if i not in marks]
            for tokens, marks in zip((a, b), marked, strict=True)
        ]
        assert kept[0] == kept[1]
        assert len(kept[0]) == longest_common(tuple(a), tuple(b))


def longest_common(a: tuple[str, ...], b: tuple[str, ...]) -> int:
    """Length of a longest common subsequence, by trying everything."""
    if not a or not b:
        return 0
    if a[0] == b[0]:
        return 1 + longest_common(a[1:], b[1:])
    return max(longest_common(a[1:], b), longest_common(a, b[1:]))


def test_nothing_sticks_out_of_a_narrow_window(report: Path, tmp_path: Path) -> None:
    narrow = Browser(tmp_path / "profile", width=360, dark=True)
    try:
        narrow.open(report.as_uri() + "#compare/2/3")
        narrow.wait("document.querySelector('#view article') !== null")
        assert narrow.evaluate("document.documentElement.scrollWidth <= innerWidth")
        background = narrow.evaluate("getComputedStyle(document.body).backgroundColor")
        assert background == "rgb(20, 23, 27)"
    finally:
        narrow.close()
