"""Memory that is used again and again: what is fresh is handed out page by page, which takes longer than filling it."""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

__all__ = ["ScratchArrays", "ScratchOfThreads"]


@dataclass(frozen=True, slots=True, eq=False)
class ScratchArrays:
    """Named float32 arrays of one thread."""

    _held: dict[str, NDArray[np.float32]] = field(default_factory=dict[str, NDArray[np.float32]])

    def take(self, name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """Return an array of a shape; it lies where the last one of that name did."""
        size = math.prod(shape)
        if name not in self._held or self._held[name].size < size:
            self._held[name] = np.empty(size, np.float32)
        return self._held[name][:size].reshape(shape)


@dataclass(frozen=True, slots=True, eq=False)
class ScratchOfThreads:
    """The arrays of every thread that works for some observers: they go with these, or with the thread."""

    _own: threading.local = field(default_factory=threading.local)

    def here(self) -> ScratchArrays:
        """Return those of this thread."""
        if not hasattr(self._own, "arrays"):
            self._own.arrays = ScratchArrays()
        return self._own.arrays
