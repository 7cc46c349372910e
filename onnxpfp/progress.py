"""Seconds by phase, and how far each phase is."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

from onnxpfp.time_limit import note_progress

__all__ = ["Clock", "Count", "Progress"]

Progress = Callable[[str, int, int], None]
"""Told the phase, how far it is, and how far it goes; 0 of 1 where a phase begins and where nothing is counted."""
Count = Callable[[int, int], None]
"""Told how far the present phase is, and how far it goes."""


def _silent(phase: str, done: int, total: int) -> None:
    """Tell nobody."""


@dataclass(slots=True)
class Clock:
    """Adds up the seconds of every phase.

    A phase within another interrupts it: no second counts twice, and all of them add up to what passed. Where the inner
    one has ended, the outer one is told again, as far as it was. So is one that follows itself: it goes on.

    Attributes:
        progress: Told what is going on.
        seconds: By phase, in the order in which they began.
    """

    progress: Progress = _silent
    seconds: dict[str, float] = field(default_factory=dict[str, float])
    _phase: str = ""
    _since: float = 0.0
    _news: tuple[int, int] = (0, 1)
    _ended: tuple[str, int, int] = ("", 0, 1)

    @contextmanager
    def phase(self, name: str) -> Generator[Count]:
        """Count what runs inside towards a phase.

        Yields:
            What to tell how far it is.
        """
        outer, news = self._go_on(name), self._news
        self.seconds.setdefault(name, 0.0)
        before, *known = self._ended
        self._ended = "", 0, 1
        self._tell(name, *(known if before == name else (0, 1)))
        try:
            yield partial(self._tell, name)
        finally:
            self._ended = name, *self._news
            self._go_on(outer)
        if outer not in ("", name):
            self._tell(outer, *news)

    def _tell(self, name: str, done: int, total: int) -> None:
        """Say how far a phase is.

        Raises:
            TimeLimitError: There is a limit of time, and it is over.
        """
        if name == self._phase:
            self._news = done, total
        note_progress(name if (done, total) == (0, 1) else f"{name}, {done} of {total}")
        self.progress(name, done, total)

    def _go_on(self, name: str) -> str:
        """Settle what has passed, and go on with a phase; returns the phase before."""
        now, before = time.perf_counter(), self._phase
        if before:
            self.seconds[before] += now - self._since
        self._phase, self._since = name, now
        return before
