"""The last number of a text, which flexible grades look at."""

import pytest

from codd_lightning.tasks import last_number


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("", None),
        ("no number here.", None),
        ("the answer is 42.", 42.0),
        ("12, then 7", 7.0),
        ("#### 1,234", 1234.0),
        ("$1,234.50 in all", 1234.5),
        ("it fell to -3", -3.0),
        ("4 - 3", 3.0),
        ("2.50.", 2.5),
        ("7, and no more", 7.0),
        ("x2", 2.0),
    ],
)
def test_last_number_reads_signs_decimals_and_thousands(text: str, number: float | None) -> None:
    assert last_number(text) == number
