"""The terminal: results on stdout, everything else on stderr, no decoration in a pipe."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TextIO

import click
from rich.console import Console
from rich.progress import BarColumn, SpinnerColumn, Task, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.text import Text

from onnxpfp.cli.log_lines import EVERY, LogLines, beating
from onnxpfp.cli.phases import counts, described
from onnxpfp.errors import legible
from onnxpfp.progress import Progress

__all__ = ["make_console", "progress_display", "unsaid"]

WIDTH = 140
"""Columns in a pipe or file, where no terminal says how wide it is."""

PERIOD = 120.0
"""Seconds over which the speed of a phase is taken: a batch of large images may need many."""

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
def progress_display(verbosity: int) -> Generator[Progress]:
    """Show how far the work is, and keep libraries that print away from stdout.

    A terminal has a bar, everything else a line now and then; where errors alone are asked for there is neither.

    Yields:
        What to tell the phase, how far it is, and how far it goes.
    """
    with _logging(_LEVELS.get(verbosity, logging.DEBUG)), contextlib.ExitStack() as stack:
        show = _silent
        console = make_console(stderr=True)
        if verbosity >= 0 and console.is_terminal:
            show = _bar(stack.enter_context(_progress(console)))
        elif verbosity >= 0:
            write = partial(click.echo, err=True)
            lines = LogLines(write)
            stack.enter_context(beating(lines.beat, EVERY))
            show = _announced(lines.tell, write) if verbosity else lines.tell
        stack.enter_context(contextlib.redirect_stdout(sys.stderr))
        yield show


class _Left(TimeRemainingColumn):
    """The time that the phase still takes, where it counts something."""

    def render(self, task: Task) -> Text:
        """Say what the time means."""
        return super().render(task).append(" left") if task.total else Text()


def _progress(console: Console) -> Bar:
    columns = (SpinnerColumn(), BarColumn(), TextColumn("{task.description}"), TimeElapsedColumn(), _Left())
    # The threads that do the work want the cores: no more pictures than a reader needs.
    return Bar(*columns, console=console, transient=True, refresh_per_second=4, speed_estimate_period=PERIOD)


def _silent(phase: str, done: int, total: int) -> None:
    """Tell nobody."""


def _bar(bar: Bar) -> Progress:
    """Show one phase at a time: what one takes says nothing about the next."""
    shown = ""
    task = bar.add_task("", total=None)

    def show(phase: str, done: int, total: int) -> None:
        nonlocal shown, task
        text, known = described(phase, done, total), total if counts(done, total) else None
        if phase != shown or done < bar.tasks[0].completed:
            bar.remove_task(task)
            shown, task = phase, bar.add_task(text, total=known, completed=done)
        else:
            # Short phases end between two pictures.
            ended = done == known
            bar.update(task, description=text, total=known, completed=done, refresh=ended)

    return show


def _announced(tell: Progress, write: Callable[[str], None]) -> Progress:
    """Write a line where a phase begins for the first time, too."""
    shown: set[str] = set()

    def show(phase: str, done: int, total: int) -> None:
        if phase not in shown:
            shown.add(phase)
            write(f"{phase} ...")
        tell(phase, done, total)

    return show


class _Lines(logging.StreamHandler[TextIO]):
    """Writes messages as lines, and remembers them: what was said need not be said again at the end."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write a message."""
        _SAID.append(record.getMessage())
        super().emit(record)


_SAID: list[str] = []


def unsaid(notes: Sequence[str]) -> list[str]:
    """Return the notes that were not among the messages of this process."""
    return [note for note in notes if note not in _SAID]


class _Legible(logging.Formatter):
    """Writes messages so that names in them steer no terminal."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 (its name in logging)
        """Write a message."""
        return legible(super().formatMessage(record))


@contextmanager
def _logging(level: int) -> Generator[None]:
    """Send the library's log to stderr for as long as the work lasts."""
    logger = logging.getLogger("onnxpfp")
    _SAID.clear()
    handler = _Lines(sys.stderr)
    handler.setFormatter(_Legible("Note: %(message)s" if level > logging.DEBUG else "%(name)s: %(message)s"))
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
