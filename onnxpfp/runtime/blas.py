"""BLAS in one thread: cores go to pieces of work that need nothing of each other, not to the parts of one product.

Threads of OpenBLAS wait for the next product in a loop. The products of a refit are short, so on a busy machine most of
that waiting is for a thread that has no core, and it takes a core from what it waits for.
"""

from __future__ import annotations

import threading
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field

# scipy brings a BLAS of its own. Were it loaded later, it would start with a thread for every core.
import scipy.linalg  # noqa: F401  # pyright: ignore[reportUnusedImport]
from threadpoolctl import threadpool_limits

__all__ = ["one_blas_thread"]


@dataclass(slots=True)
class _Hold:
    """The runs that hold BLAS. The number of its threads is one for the process, so the last run gives it back.

    Attributes:
        runs: How many there are.
        before: What gives back the number that there was before the first.
    """

    runs: int = 0
    before: threadpool_limits | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)

    def begin(self) -> None:
        """Hold it for one more run."""
        with self.lock:
            if not self.runs:
                self.before = threadpool_limits(1, user_api="blas")
            self.runs += 1

    def end(self) -> None:
        """One run less needs it held."""
        with self.lock:
            self.runs -= 1
            if not self.runs and self.before is not None:
                self.before.restore_original_limits()
                self.before = None


_HOLD = _Hold()


@contextmanager
def one_blas_thread() -> Generator[None]:
    """Hold BLAS to one thread inside, and give the caller's number back.

    It looks through all libraries of the process, which takes milliseconds: once for a run.
    """
    _HOLD.begin()
    try:
        yield
    finally:
        _HOLD.end()
