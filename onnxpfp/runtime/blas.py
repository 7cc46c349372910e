"""BLAS in one thread: cores go to pieces of work that need nothing of each other, not to the parts of one product.

Threads of OpenBLAS wait for the next product in a loop. The products of a refit are short, so on a busy machine most of
that waiting is for a thread that has no core, and it takes a core from what it waits for.
"""

from __future__ import annotations

import threading
from collections.abc import Generator
from contextlib import contextmanager

# scipy brings a BLAS of its own. Were it loaded later, it would start with a thread for every core.
import scipy.linalg  # noqa: F401  # pyright: ignore[reportUnusedImport]
from threadpoolctl import threadpool_limits

__all__ = ["one_blas_thread"]


_HELD = threading.Lock()
"""Held by the run that holds BLAS: the number of its threads is one for the process."""


@contextmanager
def one_blas_thread() -> Generator[None]:
    """Hold BLAS to one thread inside, and give the caller's number back.

    It looks through all libraries of the process, which takes milliseconds: once for a run. Of several runs at once the
    first holds it and gives it back; one that goes on longer has the caller's number from then on.
    """
    if not _HELD.acquire(blocking=False):
        yield
        return
    try:
        with threadpool_limits(1, user_api="blas"):
            yield
    finally:
        _HELD.release()
