"""Threads that work side by side on pieces that need nothing of each other.

Each piece is computed by one thread alone, and results come in the order of the pieces. So what is made of them does
not depend on how many threads there are.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context
from dataclasses import dataclass
from typing import TypeVar

__all__ = ["ALONE", "Workers", "cores", "workers"]

T = TypeVar("T")
R = TypeVar("R")


def cores() -> int:
    """Count the cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True, slots=True)
class Workers:
    """Some threads.

    Attributes:
        count: How many.
        pool: The threads; None where the caller's own is the only one, as memory is handed out faster to it.
    """

    count: int
    pool: ThreadPoolExecutor | None

    def in_order(self, work: Callable[[T], R], pieces: Iterable[T], most: int | None = None) -> Iterator[R]:
        """Work on pieces side by side, and yield results in the order of the pieces.

        Args:
            work: Work on a piece. It must not ask these threads for help: all of them may wait then.
            pieces: The pieces.
            most: Pieces that are begun or done while their results wait; None is one more than there are threads.
        """
        if self.pool is None:
            yield from map(work, pieces)
            return
        limit = self.count + 1 if most is None else max(1, min(most, self.count + 1))
        begun: deque[Future[R]] = deque()
        try:
            for piece in pieces:
                # What holds for this call (a time limit, libraries of ops) holds in its threads.
                begun.append(self.pool.submit(copy_context().run, work, piece))
                if len(begun) >= limit:
                    yield begun.popleft().result()
            while begun:
                yield begun.popleft().result()
        finally:
            for each in begun:
                each.cancel()

    def do(self, work: Callable[[T], object], pieces: Iterable[T]) -> None:
        """Work on pieces side by side, and wait until all are done."""
        for _ in self.in_order(work, pieces):
            pass


ALONE = Workers(1, None)
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
    with ThreadPoolExecutor(count) as pool:
        yield Workers(count, pool)
