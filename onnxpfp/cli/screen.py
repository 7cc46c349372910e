"""The terminal: results on stdout, everything else on stderr, no decoration in a pipe."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

__all__ = ["make_console", "working"]

WIDTH = 140
"""Columns in a pipe or file, where no terminal says how wide it is."""

Tell = Callable[[str, int, int], None]

_LEVELS = {-1: logging.ERROR, 0: logging.WARNING, 1: logging.INFO}


def make_console(*, stderr: bool = False) -> Console:
    """Open a console; it decorates on a terminal only, and not where NO_COLOR is set."""
    stream = sys.stderr if stderr else sys.stdout
    terminal = stream.isatty()
    _forgive(stream)
    return Console(
        file=stream,
        # rich would still print bold and dim with NO_COLOR.
        force_terminal=terminal and not os.environ.get("NO_COLOR"),
        width=None if terminal else WIDTH,
        markup=False,
        highlight=False,
        emoji=False,
    )


def _forgive(stream: object) -> None:
    """Names of weights may have letters that the stream's encoding lacks."""
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="replace")


@contextmanager
def working(verbosity: int) -> Generator[Tell]:
    """Show how far the work is, and keep libraries that print away from stdout.

    Yields:
        What to tell the phase, how far it is, and how far it goes.
    """
    with _logging(_LEVELS.get(verbosity, logging.DEBUG)), contextlib.ExitStack() as stack:
        tell = _silent
        console = make_console(stderr=True)
        if verbosity >= 0 and console.is_terminal:
            tell = _bar(stack.enter_context(_progress(console)))
        elif verbosity > 0:
            tell = _lines()
        stack.enter_context(contextlib.redirect_stdout(sys.stderr))
        yield tell


def _progress(console: Console) -> Progress:
    columns = (SpinnerColumn(), BarColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    return Progress(*columns, console=console, transient=True)


def _silent(phase: str, done: int, total: int) -> None:
    """Tell nobody."""


def _bar(progress: Progress) -> Tell:
    task = progress.add_task("")

    def tell(phase: str, done: int, total: int) -> None:
        counted = f"{phase}, {done} of {total}" if total > 1 else phase
        progress.update(task, description=counted, completed=done, total=total)

    return tell


def _lines() -> Tell:
    seen: set[str] = set()

    def tell(phase: str, done: int, total: int) -> None:
        if phase not in seen:
            seen.add(phase)
            click.echo(f"{phase} ...", err=True)

    return tell


@contextmanager
def _logging(level: int) -> Generator[None]:
    """Send the library's log to stderr for as long as the work lasts."""
    logger = logging.getLogger("onnxpfp")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("Note: %(message)s" if level > logging.DEBUG else "%(name)s: %(message)s"))
    before = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(level)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before[0])
        logger.propagate = before[1]
