"""Tables as a page shows them: cells with the number that they are sorted by."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from onnxpfp.errors import legible
from onnxpfp.report.page import Column, Table

__all__ = ["HtmlCell", "HtmlTable", "laid_out", "sort_key"]

_NUMBER = re.compile(r"(?P<number>[+-]?\d[\d,]*(?:\.\d+)?(?:e[+-]?\d+)?)(?: (?P<unit>[kMGT])\b)?")
_UNITS = {"k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}


@dataclass(frozen=True, slots=True)
class HtmlCell:
    """A cell.

    Attributes:
        text: What it shows.
        key: The number that it is sorted by, as a script reads it; empty where the text is that number, or is none.
    """

    text: str
    key: str


@dataclass(frozen=True, slots=True)
class HtmlTable:
    """A table.

    Attributes:
        columns: Its columns.
        rows: Its rows.
        of: What a row is about; empty where it is always short.
        most: Rows that are shown at first.
        left: Rows that are left out.
    """

    columns: Sequence[Column]
    rows: Sequence[Sequence[HtmlCell]]
    of: str
    most: int
    left: int


def laid_out(table: Table, most: int | None) -> HtmlTable:
    """Lay out a table.

    Args:
        table: The table.
        most: Most rows that the page has at all; None is all.
    """
    rows = [[_cell(text, column) for text, column in zip(row, table.columns, strict=True)] for row in table.rows[:most]]
    return HtmlTable(table.columns, rows, table.of, table.most, len(table.rows) - len(rows))


def sort_key(text: str) -> float | None:
    """Return the number that a cell begins with, in its unit; None where it begins with none.

    Counts come with commas and letters for thousands, shares in per cent, parts as "3/16" or "3 of 16".
    """
    if text == "inf":
        return float("inf")
    found = _NUMBER.match(text)
    if found is None:
        return None
    return float(found["number"].replace(",", "")) * _UNITS.get(found["unit"], 1.0)


def _cell(text: str, column: Column) -> HtmlCell:
    number = sort_key(text) if column.right else None
    # As a script reads a number.
    key = "" if number is None else "Infinity" if number == float("inf") else f"{number:.17g}"
    return HtmlCell(legible(text), "" if key == text else key)
