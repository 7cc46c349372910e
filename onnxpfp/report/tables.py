"""The parts that all printed reports are made of."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

__all__ = ["ATTENTION", "facts", "heading", "indented", "more", "print_clean", "spent"]

ATTENTION: dict[str, dict[str, str]] = {
    "heads": {},
    "width": {"attention": "the same part of every head may go, no whole head"},
}
"""What is said about the unit of an attention: nothing about the default one."""


def print_clean(console: Console, draw: Callable[[], None]) -> None:
    """Call what prints on the console; in a pipe, take away the blanks with which rich fills every line."""
    if console.is_terminal:
        draw()
        return
    with console.capture() as captured:
        draw()
    console.file.write(re.sub(r" +$", "", captured.get(), flags=re.MULTILINE))


def heading(text: str) -> Text:
    """Write the title of a section."""
    return Text(f"\n{text}", style="bold")


def indented(text: str) -> Padding:
    """Write a line below a table."""
    return Padding(Text(text), (0, 0, 0, 2))


def spent(seconds: Mapping[str, float]) -> str:
    """Write the seconds of all phases, and those of the phases that anybody had to wait for."""
    waited = [f"{phase} {time:.1f}" for phase, time in seconds.items() if time >= 0.05]
    return f"{sum(seconds.values()):.1f}" + (f" ({', '.join(waited)})" if waited else "")


def more(console: Console, count: int, what: str, flag: str) -> None:
    """Say how many rows are not shown, and which flag shows them."""
    if count > 0:
        console.print(indented(f"... and {count} more {what}; {flag} shows all"))


def facts(rows: dict[str, str]) -> Table:
    """Lay out names and what there is to say about them, one per line."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold")
    for title, text in rows.items():
        grid.add_row(f"  {title}", text)
    return grid
