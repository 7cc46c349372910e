"""What every report is: values for programs, and a page for people, element by element, without a word on its looks."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from onnxpfp.report.charts import Bars, Plot, Profile, Tiles

if TYPE_CHECKING:
    from rich.console import Console

__all__ = [
    "ATTENTION",
    "MOST",
    "Column",
    "Element",
    "Facts",
    "Heading",
    "Line",
    "ReportView",
    "Reportable",
    "Table",
    "Title",
    "at_most",
    "down_to",
    "finite",
    "number",
    "sizes",
    "spent",
]

MOST = 40
"""Rows of a table where nothing else is asked for."""
ATTENTION: Mapping[str, Mapping[str, str]] = {
    "heads": {},
    "width": {"attention": "the same part of every head may go, no whole head"},
}
"""Facts about the unit of an attention: none about the default one."""


@dataclass(frozen=True, slots=True)
class Title:
    """What the page is about."""

    text: str


@dataclass(frozen=True, slots=True)
class Heading:
    """The title of a section."""

    text: str


@dataclass(frozen=True, slots=True)
class Line:
    """A sentence below a table."""

    text: str


@dataclass(frozen=True, slots=True)
class Facts:
    """Names and what there is to say about them."""

    rows: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table.

    Attributes:
        title: Its title.
        right: Whether it is aligned to the right.
        wraps: Whether a cell may take several lines.
    """

    title: str
    right: bool = False
    wraps: bool = True


@dataclass(frozen=True, slots=True)
class Table:
    """A table.

    Attributes:
        columns: Its columns.
        rows: Its rows, all of them.
        of: What a row is about, where so many may come that some are left out; empty where all are shown.
        most: Most rows where nothing else is asked for.
        flag: The flag that shows all.
        tight: Whether columns stand close together.
        in_tiles: Whether tiles beside it say the same, so that a page with pictures leaves it out.
        first: Numbers of the rows that are shown before others where some are left out.
    """

    columns: Sequence[Column]
    rows: Sequence[Sequence[str]]
    of: str = ""
    most: int = MOST
    flag: str = "--all"
    tight: bool = True
    in_tiles: bool = False
    first: Sequence[int] = ()

    def shown(self, most: int | None) -> Sequence[Sequence[str]]:
        """Return at most so many rows, in the order in which they stand; None is all."""
        if most is None or len(self.rows) <= most:
            return self.rows
        chosen = dict.fromkeys((*self.first, *range(len(self.rows))))
        return [self.rows[number] for number in sorted(list(chosen)[:most])]


Element = Title | Heading | Line | Facts | Table | Tiles | Bars | Profile | Plot


class Reportable(Protocol):
    """The report of a verb."""

    @property
    def notes(self) -> Sequence[str]:
        """What the user should know."""
        ...

    def to_dict(self) -> dict[str, Any]:
        """Return everything in types that JSON knows."""
        ...

    def page(self, *, full: bool, wide: bool) -> Iterable[Element]:
        """Return what people read; `full` with all details, `wide` where lines are long."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class ReportView:
    """How a report is looked at.

    Attributes:
        console: What text is laid out for.
        top: Most rows of a table; None leaves it to the table.
        full: Whether every row and all details are shown.
        names: Files that the report is about, where they stand on the command line.
        command: The command as it was called; empty where a program asks.
    """

    console: Console
    top: int | None = None
    full: bool = False
    names: Mapping[str, str | None] = field(default_factory=dict[str, str | None])
    command: str = ""


def number(title: str) -> Column:
    """Return a column of numbers."""
    return Column(title, right=True, wraps=False)


def sizes(shapes: Mapping[str, Sequence[int]]) -> str:
    """Write the shapes of inputs."""
    return ", ".join(f"{name} {'x'.join(map(str, shape)) or 'scalar'}" for name, shape in shapes.items())


def spent(seconds: Mapping[str, float]) -> str:
    """Write the seconds of all phases, and those of the phases that anybody had to wait for."""
    waited = [f"{phase} {time:.1f}" for phase, time in seconds.items() if time >= 0.05]
    return f"{sum(seconds.values()):.1f}" + (f" ({', '.join(waited)})" if waited else "")


def at_most(value: float, digits: int) -> str:
    """Round a bound up to so many digits: rounded down it would promise more than it holds."""
    if not math.isfinite(value) or value <= 0:
        return f"{value:g}"
    unit = 10.0 ** (math.floor(math.log10(value)) - digits + 1)
    # Beyond what a sum of floats is off by, but not for a number that has so few digits anyway.
    return f"{math.ceil(value / unit - 1e-9) * unit:.{digits}g}"


def down_to(value: float, digits: int) -> str:
    """Round a lower bound down to so many digits behind the point: rounded up it would promise more than it holds."""
    # Below what a sum of floats is off by.
    return f"{math.floor(value * 10**digits + 1e-9) / 10**digits:g}"


def finite(value: float) -> str:
    """Write a number that may have no size."""
    return f"{value:.3g}" if math.isfinite(value) else "-"
