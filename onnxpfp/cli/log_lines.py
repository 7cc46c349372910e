"""What a run is at, as a line from time to time, where no terminal shows a bar: a log tells that it is alive."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

from onnxpfp.cli.phases import described

__all__ = ["EVERY", "LogLines", "beating"]

EVERY = 30.0
"""Seconds between two lines; what ends sooner writes none."""


@dataclass(frozen=True, slots=True)
class _News:
    """What was told last.

    Attributes:
        phase: What is going on.
        done: How far it is.
        total: How far it goes.
        since: When the phase began, in seconds of the clock.
        begin: When it began to count up to this total.
        told: When this was told.
    """

    phase: str
    done: int
    total: int
    since: float
    begin: float
    told: float

    def left(self, now: float) -> float | None:
        """Return the seconds that it still takes if it goes on as fast; None where that is not known."""
        if not 0 < self.done < self.total:
            return None
        each = (self.told - self.begin) / self.done
        return max((self.total - self.done) * each - (now - self.told), 0.0)


class LogLines:
    """Writes lines on how far a run is.

    It is told in the thread that works, and writes in another one: what was told last is replaced as a whole.
    """

    def __init__(self, write: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        """Remember how lines are written, and what gives the time in seconds."""
        self._write = write
        self._clock = clock
        self._news: _News | None = None

    def tell(self, phase: str, done: int, total: int) -> None:
        """Hear how far a phase is, as `onnxpfp.progress.Progress` says."""
        now, before = self._clock(), self._news
        if before is None or before.phase != phase:
            self._news = _News(phase, done, total, now, now, now)
            return
        # A phase that counts several things one after the other begins each where the one before has ended.
        anew = total != before.total or done < before.done
        self._news = _News(phase, done, total, before.since, before.told if anew else before.begin, now)

    def beat(self) -> None:
        """Write a line; none before anything was told."""
        news, now = self._news, self._clock()
        if news is None:
            return
        line = f"{described(news.phase, news.done, news.total)}, after {_clock_text(now - news.since)}"
        left = news.left(now)
        self._write(line if left is None else f"{line}, about {_clock_text(left)} left")


@contextmanager
def beating(beat: Callable[[], None], period: float) -> Generator[None]:
    """Call something every so many seconds, in a thread of its own, for as long as the work lasts."""
    ended = threading.Event()

    def run() -> None:
        while not ended.wait(period):
            beat()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _clock_text(seconds: float) -> str:
    """Write hours, minutes and seconds, as the bar does."""
    return str(timedelta(seconds=round(seconds)))
