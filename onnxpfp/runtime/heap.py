"""Memory that is free, but not given back: glibc keeps what lies below something that is still in use."""

from __future__ import annotations

import ctypes
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from onnxpfp.runtime.arena import shrink_arena

__all__ = ["Ceiling", "resident_bytes", "trim_heap", "trim_malloc"]


def trim_heap() -> None:
    """Return free memory to the system, that of sessions included: after a phase that took much."""
    shrink_arena()
    trim_malloc()


def trim_malloc() -> None:
    """Return what the C library can of the memory that is free."""
    if sys.platform != "linux":
        return
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def resident_bytes() -> int:
    """Return how much of this process is in memory, files that are mapped included; 0 where the system is not Linux."""
    try:
        pages = Path("/proc/self/statm").read_bytes().split()[1]
    except OSError:
        return 0
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


@dataclass(slots=True)
class Ceiling:
    """Gives free memory back within a phase, once there is much of it.

    To take memory anew costs time, so it is given back only above the ceiling, and only once more has come on top of
    what was left the last time.

    Attributes:
        height: Resident bytes up to which nothing is given back.
        step: Bytes that come on top until it is tried again.
    """

    height: int
    step: int
    _left: int = 0

    @classmethod
    def above(cls, room: int, step: int | None = None) -> Self:
        """Return a ceiling so many bytes above what is resident now; without a step it is a quarter of them."""
        return cls(resident_bytes() + room, room // 4 if step is None else step)

    def keep(self) -> None:
        """Give free memory back if there is reason to."""
        if resident_bytes() > max(self.height, self._left + self.step):
            trim_heap()
            self._left = resident_bytes()
