"""Whatever a model writes is text in TensorBoard, and what differs is bold."""

import html
import re
import warnings

from hypothesis import given
from hypothesis import strategies as st

from codd_lightning.decoding import Cell, State
from codd_lightning.evaluation import Sample, side_by_side
from codd_lightning.evaluation.markdown import differing, escape, marked, trace_table
from codd_lightning.tasks import Example, Grade

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # of the sanitizer that TensorBoard brings
    from tensorboard.plugin_util import markdown_to_safe_html

HOSTILE = "<script>alert(1)</script> | ![x](http://a.b/c.png) `code` *bold* _it_ [a](javascript:b) &amp; # <img src=x>"


def shown(markdown: str) -> str:
    """What TensorBoard shows of Markdown, without tags."""
    return html.unescape(re.sub(r"<[^>]*>", "", markdown_to_safe_html(markdown)))


def sample(decoder: str, pieces: list[str], budget: int = 4, strict: bool = True) -> Sample:
    return Sample(
        index=0,
        labels={"decoder": decoder, "remasking": "low_confidence", "eos": "any", "steps_per_block": budget},
        example=Example(HOSTILE, "given"),
        text=" ".join(pieces),
        pieces=pieces,
        grade=Grade(strict, strict),
        ended=True,
        tokens=len(pieces),
        nfe=1,
        circuit_calls=0,
        seconds=0.0,
    )


@given(
    st.text("<>&;*_`|[](){}#!~\\'\"-+.1ab", min_size=1)
    | st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1)
)
def test_escaped_text_is_shown_as_it_is(text: str) -> None:
    assert text in shown(f"| a |\n|---|\n| {escape(text)} |")


def test_hostile_text_brings_in_no_tag_of_its_own() -> None:
    page = markdown_to_safe_html(side_by_side([[sample("factorized", [HOSTILE])], [sample("x|y", ["a", HOSTILE])]], 0))
    tags = {tag.strip("/") for tag in re.findall(r"<(/?\w+)", page)}
    assert tags <= {"p", "table", "thead", "tbody", "tr", "th", "td", "strong"}
    assert page.count("<td") == 3
    assert HOSTILE in html.unescape(page)


def test_control_characters_and_line_ends_keep_a_cell_whole() -> None:
    assert escape("a\nb\x00\t") == "a<br>b\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}"


def test_what_the_others_lack_is_marked_in_the_first_and_what_the_first_lacks_in_the_others() -> None:
    first, second, third = ["a", "b", "c", "d"], ["a", "x", "c", "d"], ["a", "b", "c"]
    assert differing([first, second, third]) == [
        [False, True, False, True],
        [False, True, False, False],
        [False, False, False],
    ]
    assert differing([first, first]) == [[False] * 4, [False] * 4]


def test_neighbours_that_differ_share_one_mark_and_words_are_spaced() -> None:
    assert marked(["a", "b", "c"], [False, True, True]) == "a <strong>b c</strong>"
    assert marked(["a", " b", " c"], [False, True, True]) == "a<strong> b c</strong>"


def test_side_by_side_has_a_row_for_each_budget_and_a_column_for_each_decoder() -> None:
    decoded = [
        [sample(decoder, ["w", decoder[0]], budget, strict=budget == 4)]
        for decoder in ("factorized", "latent")
        for budget in (1, 4)
    ]
    table = [line for line in side_by_side(decoded, 0).splitlines() if line.startswith("|")]
    assert table[0] == "| steps per block | factorized | latent |"
    assert table[2] == "| 1 | ✗ w <strong>f</strong> | ✗ w <strong>l</strong> |"
    assert table[3] == "| 4 | ✓ w <strong>f</strong> | ✓ w <strong>l</strong> |"


def test_a_trace_tells_who_chose_a_token() -> None:
    steps = [
        [Cell("a", State.BY_CIRCUIT), Cell("b", State.BY_CIRCUIT), Cell("·", State.MASKED)],
        [Cell("a", State.KEPT), Cell("b", State.KEPT), Cell("<c>", State.BY_BACKBONE)],
    ]
    rows = trace_table(steps, "title").splitlines()
    assert rows[-2] == "| 1 | <strong>a b</strong> &#183; |"
    assert rows[-1] == "| 2 | a b <code>&#60;c&#62;</code> |"
    assert "<c>" in shown(trace_table(steps, "title"))
