"""Reports as text for a console; results and notes alike are laid out here only."""

from __future__ import annotations

import re
from collections.abc import Sequence

from rich import box
from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.table import Table as Grid
from rich.text import Text

from onnxpfp.errors import legible
from onnxpfp.report.charts import Bars, Plot, Profile, Tiles
from onnxpfp.report.page import Element, Facts, Heading, Line, Reportable, ReportView, Table, Title

__all__ = ["as_text", "print_notes"]

WIDE = 110
"""Columns from which lines are long."""


def as_text(report: Reportable, view: ReportView) -> str:
    """Write a report for the console; in a pipe without the blanks with which rich fills every line."""
    console = view.console
    with console.capture() as captured:
        for element in report.page(full=view.full, wide=console.width >= WIDE):
            for drawn in _laid_out(element, view):
                console.print(drawn)
    return captured.get() if console.is_terminal else re.sub(r" +$", "", captured.get(), flags=re.MULTILINE)


def print_notes(notes: Sequence[str], console: Console) -> None:
    """Print what the user should know, each on one line where the console is no terminal."""
    for note in notes:
        style = "bold red" if note.startswith("RANDOM") else "yellow"
        console.print(Text(f"Note: {legible(note)}", style=style), soft_wrap=not console.is_terminal)


def _laid_out(element: Element, view: ReportView) -> list[RenderableType]:
    match element:
        case Title(text):
            return [Text(legible(text), style="bold")]
        case Heading(text):
            return [Text(f"\n{legible(text)}", style="bold")]
        case Line(text):
            return [_indented(text)]
        case Facts():
            return [_facts(element)]
        case Table():
            return _table(element, None if view.full or not element.of else view.top or element.most)
        case Tiles() | Bars() | Profile() | Plot():
            return []


def _indented(text: str) -> Padding:
    return Padding(Text(legible(text)), (0, 0, 0, 2))


def _facts(facts: Facts) -> Grid:
    grid = Grid.grid(padding=(0, 2))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold")
    for title, text in facts.rows.items():
        grid.add_row(f"  {title}", legible(text))
    return grid


def _table(table: Table, most: int | None) -> list[RenderableType]:
    """Lay out the rows that are shown, and say how many are not shown and which flag shows them."""
    grid = Grid(box=box.SIMPLE, collapse_padding=table.tight)
    for column in table.columns:
        overflow = "fold" if column.wraps else "ellipsis"
        justify = "right" if column.right else "left"
        grid.add_column(column.title, justify=justify, overflow=overflow, no_wrap=not column.wraps)
    shown = table.shown(most)
    for row in shown:
        grid.add_row(*map(legible, row))
    left = len(table.rows) - len(shown)
    return [grid, _indented(f"... and {left} more {table.of}; {table.flag} shows all")] if left else [grid]
