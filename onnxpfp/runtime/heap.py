"""Memory that is free, but not given back: glibc keeps what lies below something that is still in use."""

from __future__ import annotations

import ctypes
import sys

from onnxpfp.runtime.arena import shrink_arena

__all__ = ["trim_heap", "trim_malloc"]


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
