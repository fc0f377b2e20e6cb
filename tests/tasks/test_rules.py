"""The rules for lists and squares against their definitions, over every candidate."""

import itertools

import pytest

from codd_lightning.tasks.rules import (
    insertions,
    is_latin_square,
    is_shuffled,
    is_sudoku,
    new_in_each_column,
    removals,
    replacements,
)

ITEMS = ("a", "b", "c")
DIGITS = ["1", "2", "3", "4"]


def every_list(length: int) -> list[tuple[str, ...]]:
    return list(itertools.product("abcx", repeat=length))


def test_insertions_are_the_lists_that_the_word_can_be_taken_from() -> None:
    right = {a for a in every_list(4) if a.count("x") == 1 and tuple(w for w in a if w != "x") == ITEMS}
    assert set(insertions(ITEMS, "x")) == right
    assert len(right) == 4


def test_replacements_differ_from_the_list_in_one_place_where_the_word_is() -> None:
    right = {a for a in every_list(3) if [w for w, b in zip(a, ITEMS, strict=True) if w != b] == ["x"]}
    assert set(replacements(ITEMS, "x")) == right
    assert len(right) == 3


def test_removals_keep_the_order_of_all_but_one() -> None:
    assert set(removals(ITEMS)) == set(itertools.combinations(ITEMS, 2))


def test_shuffled_is_every_order_but_the_given_one() -> None:
    right = {answer for length in (2, 3, 4) for answer in every_list(length) if is_shuffled(answer, ITEMS)}
    assert right == set(itertools.permutations(ITEMS)) - {ITEMS}


@pytest.fixture(scope="module")
def latin_squares() -> set[tuple[str, ...]]:
    rows = list(itertools.permutations(DIGITS))
    columns_hold_all = (
        square
        for square in itertools.product(rows, repeat=4)
        if all(len(set(column)) == 4 for column in zip(*square, strict=True))
    )
    return {tuple(itertools.chain(*square)) for square in columns_hold_all}


def test_latin_squares_of_four_are_the_576_there_are(latin_squares: set[tuple[str, ...]]) -> None:
    assert len(latin_squares) == 576
    assert all(is_latin_square(square, DIGITS) for square in latin_squares)
    for square in itertools.islice(latin_squares, 20):
        for place in range(16):
            for digit in "1234":
                other = (*square[:place], digit, *square[place + 1 :])
                assert is_latin_square(other, DIGITS) == (other == square)
        assert not is_latin_square(square[:12], DIGITS)
        assert not is_latin_square(square + square[:4], DIGITS)


def test_an_empty_puzzle_has_288_solutions_and_a_solved_one_itself(latin_squares: set[tuple[str, ...]]) -> None:
    blank = ("",) * 16
    solutions = [square for square in latin_squares if is_sudoku(square, blank)]
    assert len(solutions) == 288
    for square in solutions:
        for corner in (0, 2, 8, 10):
            assert {square[corner + i] for i in (0, 1, 4, 5)} == set(DIGITS)
    for square in solutions[:5]:
        assert [other for other in solutions if is_sudoku(other, square)] == [square]
        given = (*square[:3], *blank[3:])
        assert [other for other in solutions if is_sudoku(other, given)] == [
            other for other in solutions if other[:3] == square[:3]
        ]


def test_a_row_is_new_where_no_column_repeats() -> None:
    assert new_in_each_column(("a", "b", "b", "a"), ("c", "c"))
    assert not new_in_each_column(("a", "b", "b", "a"), ("c", "a"))
