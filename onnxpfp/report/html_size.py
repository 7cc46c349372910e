"""How much of a report one HTML page holds: everything where it can, else less, and the page says what it lacks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["LIMIT", "Detail", "fitted"]

LIMIT = 2_000_000
"""Most bytes of a page."""


@dataclass(frozen=True, slots=True)
class Detail:
    """How much of a report is shown.

    Attributes:
        digits: Significant digits of the numbers that charts draw.
        details: Whether charts have charts of their labels.
        rows: Most rows of a table and bars of a chart; None is all.
        left_out: What is missing by that, in words; empty where nothing is.
    """

    digits: int
    details: bool
    rows: int | None
    left_out: str


LEVELS = (
    Detail(6, True, None, ""),
    Detail(3, True, None, "the charts draw numbers of three digits"),
    Detail(3, False, None, "the charts of single groups are left out"),
    *(
        Detail(3, False, rows, f"tables and charts have their first {rows:,} rows, and no charts of single groups")
        for rows in (2000, 1000, 500, 200, 50)
    ),
)
"""From everything to what fits in any case, for names that are not absurdly long."""


def fitted(render: Callable[[Detail], str]) -> str:
    """Return the page with the most detail that is no larger than the limit; the one with the least if none is."""
    page = ""
    for detail in LEVELS:
        page = render(detail)
        if len(page.encode()) <= LIMIT:
            break
    return page
