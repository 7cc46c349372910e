"""Threads that work side by side on pieces that need nothing of each other.

Each piece is computed by one thread alone, and results come in the order of the pieces. So what is made of them does
not depend on how many threads there are. Whoever waits for a result is one of the threads: it works on what waits
meanwhile, so that small pieces cost no change of threads.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from contextvars import copy_context
from dataclasses import dataclass, field
from functools import partial
from queue import SimpleQueue
from typing import Any, Generic, TypeVar, cast

__all__ = ["ALONE", "SIDE_BY_SIDE", "Task", "Workers", "cores", "even_batch", "side_by_side", "workers"]


AHEAD = 2
"""Pieces that are begun for every thread."""
SIDE_BY_SIDE = 2
"""Batches of a network that run at once: more would only take more memory."""
T = TypeVar("T")
R = TypeVar("R")


def cores() -> int:
    """Count the cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def side_by_side(threads: int | None, batches: int) -> int:
    """Return how many of so many batches of a network run at once; None are all cores."""
    return max(1, min(SIDE_BY_SIDE, threads or cores(), batches))


def even_batch(samples: int, most: int) -> int:
    """Return the size at which samples come in an even number of batches, of about one size and of so many at most.

    Two threads end together then. It does not depend on how many there are, for sums depend on it.
    """
    pairs = max(1, -(-samples // (2 * most)))
    return max(1, -(-samples // (2 * pairs)))


@dataclass(slots=True, eq=False)
class Task(Generic[R]):
    """A piece of work that some thread does, or has done."""

    work: Callable[[], R] | None
    _result: R | None = None
    _error: BaseException | None = None
    _undone: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self._undone.acquire()

    @property
    def done(self) -> bool:
        """Whether it is done, or has failed."""
        return not self._undone.locked()

    def run(self) -> None:
        """Do it; a failure is that of whoever asks for the result."""
        work, self.work = self.work, None
        assert work is not None
        try:
            self._result = work()
        except BaseException as error:
            self._error = error
            if not isinstance(error, Exception):
                raise
        finally:
            self._undone.release()

    def result(self) -> R:
        """Wait until it is done, and return what came of it."""
        with self._undone:
            if self._error is not None:
                raise self._error
            return cast("R", self._result)


@dataclass(frozen=True, slots=True)
class _Crew:
    """The threads beside the caller's own, and what waits for them.

    Attributes:
        waiting: Tasks that nobody has begun.
        calls: One for every task that was put there, also where somebody else has begun it since; None ends a thread.
    """

    waiting: deque[Task[Any]] = field(default_factory=deque[Task[Any]])
    calls: SimpleQueue[bool | None] = field(default_factory=SimpleQueue[bool | None])

    def serve(self) -> None:
        """Work on what waits, until the end."""
        while self.calls.get():
            task = self.next()
            if task is not None:
                task.run()
            # It may hold what the next one needs the memory of.
            del task

    def put(self, task: Task[Any]) -> None:
        """Let a task wait."""
        self.waiting.append(task)
        self.calls.put(True)

    def next(self, wanted: Task[Any] | None = None) -> Task[Any] | None:
        """Take a task that nobody has begun: the one that is wanted, or else the oldest; None where there is none."""
        try:
            if wanted is not None:
                self.waiting.remove(wanted)
                return wanted
        except ValueError:
            pass
        try:
            return self.waiting.popleft()
        except IndexError:
            return None


@dataclass(frozen=True, slots=True)
class Workers:
    """Some threads, of which the caller's own is one.

    Attributes:
        count: How many.
    """

    count: int
    _crew: _Crew | None = None

    def begin(self, work: Callable[[T], R], piece: T) -> Task[R]:
        """Let a piece be worked on; by one thread that is at once, here."""
        if self._crew is None:
            task = Task[R](partial(work, piece))
            task.run()
            return task
        # What holds for this call (a time limit, libraries of ops) holds in its threads.
        context = copy_context()
        task = Task[R](lambda: context.run(work, piece))
        self._crew.put(task)
        return task

    def result(self, task: Task[R]) -> R:
        """Return the result of a task, and work on what waits as long as there is none.

        A piece of work may ask so for what it has begun itself, not for what was begun before: that may lie below it,
        on the stack of its own thread.
        """
        while self._crew is not None and not task.done:
            other = self._crew.next(task)
            if other is None:
                break
            other.run()
            del other
        return task.result()

    def in_order(self, work: Callable[[T], R], pieces: Iterable[T], most: int | None = None) -> Iterator[R]:
        """Work on pieces side by side, and yield results in the order of the pieces.

        Args:
            work: Work on a piece.
            pieces: The pieces.
            most: Pieces that are begun or done while their results wait, at most two for every thread, as None is.
        """
        if self._crew is None:
            yield from map(work, pieces)
            return
        # Whoever waits for the first one works on the second meanwhile, and the others find more.
        limit = AHEAD * self.count if most is None else max(1, min(most, AHEAD * self.count))
        begun: deque[Task[R]] = deque()
        try:
            for piece in pieces:
                begun.append(self.begin(work, piece))
                if len(begun) >= limit:
                    yield self.result(begun.popleft())
            while begun:
                yield self.result(begun.popleft())
        finally:
            for each in begun:
                with suppress(ValueError):
                    self._crew.waiting.remove(each)

    def do(self, work: Callable[[T], object], pieces: Iterable[T], most: int | None = None) -> None:
        """Work on pieces side by side, and wait until all are done; `most` as in `in_order`."""
        for _ in self.in_order(work, pieces, most):
            pass


ALONE = Workers(1)
"""The caller's own thread."""


@contextmanager
def workers(threads: int | None) -> Generator[Workers]:
    """Start threads.

    Args:
        threads: How many; None is one for every core.
    """
    count = threads or cores()
    if count == 1:
        yield ALONE
        return
    crew = _Crew()
    threads_beside = [threading.Thread(target=crew.serve) for _ in range(count - 1)]
    for each in threads_beside:
        each.start()
    try:
        yield Workers(count, crew)
    finally:
        crew.waiting.clear()
        for _ in threads_beside:
            crew.calls.put(None)
        for each in threads_beside:
            each.join()
