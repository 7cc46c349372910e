"""A limit of time: what runs in C++ is told to stop when it is over, and everything else stops at its next step."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

from onnxpfp.errors import TimeLimitError
from onnxpfp.supervision import tell

__all__ = ["limited", "note_progress", "stoppable"]


@dataclass(slots=True)
class _Limit:
    """A limit that is running.

    Attributes:
        seconds: How long it is.
        over: Whether it is over.
        doing: What is going on.
        stops: What stops the runs that are going on.
    """

    seconds: float
    over: bool = False
    doing: str = ""
    stops: list[Callable[[], None]] = field(default_factory=list[Callable[[], None]])
    lock: threading.Lock = field(default_factory=threading.Lock)

    def end(self) -> None:
        """Stop what runs; called in a thread of its own."""
        with self.lock:
            self.over = True
            for stop in self.stops:
                stop()

    def check(self) -> None:
        """Stop here, if it is over.

        Raises:
            TimeLimitError: It is.
        """
        if self.over:
            doing = f": it was at {self.doing}" if self.doing else ""
            raise TimeLimitError(
                f"not done after {self.seconds:g} s{doing}",
                hint="a longer --timeout, or fewer samples; a model with a loop that never ends is never done",
            )


_LIMIT: ContextVar[_Limit | None] = ContextVar("limit", default=None)


@contextmanager
def limited(seconds: float | None) -> Generator[None]:
    """Limit the time of what runs inside; None sets no limit.

    Raises:
        TimeLimitError: It took longer.
    """
    if seconds is None:
        yield
        return
    limit = _Limit(seconds)
    timer = threading.Timer(seconds, limit.end)
    timer.daemon = True
    token = _LIMIT.set(limit)
    tell("timeout", str(seconds))
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        _LIMIT.reset(token)


@contextmanager
def stoppable(stop: Callable[[], None]) -> Generator[None]:
    """Run something in C++ that a function can stop from another thread.

    Raises:
        TimeLimitError: It was stopped, or the time was over before it began.
    """
    limit = _LIMIT.get()
    if limit is None:
        yield
        return
    with limit.lock:
        limit.stops.append(stop)
    try:
        limit.check()
        yield
    finally:
        with limit.lock:
            limit.stops.remove(stop)
        limit.check()


def note_progress(doing: str) -> None:
    """Say what is going on, and stop here if the time is over.

    Raises:
        TimeLimitError: It is.
    """
    tell("phase", doing)
    limit = _LIMIT.get()
    if limit is not None:
        limit.doing = doing
        limit.check()
