from __future__ import annotations

import math

import pytest

from onnxpfp.report.html_tables import laid_out, sort_key
from onnxpfp.report.page import Column, Table, number


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("12,958,592", 12_958_592),
        ("67.2 %", 67.2),
        ("3/16", 3),
        ("12 of 64", 12),
        ("1.23 M", 1.23e6),
        ("94.8 k", 94_800),
        ("5.3e-08", 5.3e-8),
        ("-0.5", -0.5),
        ("16 x 4", 16),
        ("12 Models", 12),
        ("inf", math.inf),
        ("-", None),
        ("", None),
        ("as it was", None),
    ],
)
def test_cells_sort_by_the_number_that_they_begin_with(text: str, key: float | None) -> None:
    assert sort_key(text) == pytest.approx(key) if key is not None else sort_key(text) is None


def test_only_cells_that_are_no_plain_number_carry_one() -> None:
    table = Table((Column("group"), number("MACs")), [("10 k", "10 k"), ("b", "12"), ("c", "inf"), ("d", "-")])
    cells = [row[1] for row in laid_out(table, None).rows]
    assert [cell.key for cell in cells] == ["10000", "", "Infinity", ""]
    # Text is sorted as text.
    assert laid_out(table, None).rows[0][0].key == ""


def test_rows_beyond_the_limit_are_counted() -> None:
    table = Table((Column("group"),), [(str(row),) for row in range(5)])
    assert len(laid_out(table, 3).rows) == 3
    assert laid_out(table, 3).left == 2
    assert laid_out(table, None).left == 0
