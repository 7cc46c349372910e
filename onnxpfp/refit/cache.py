"""Arrays that are needed later: in memory as far as the workspace goes, in temporary files beyond.

Threads may keep arrays at once: only the place of each is found by one at a time, its numbers are copied side by side.
"""

from __future__ import annotations

import math
import mmap
import os
import shutil
import weakref
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxpfp.arrays import FLOAT_BYTES
from onnxpfp.refit.blocks import Blocks
from onnxpfp.runtime.scratch import temporary_folder

__all__ = ["SpillCache", "rest"]


def rest(array: NDArray[Any]) -> None:
    """Let go of the pages of a file until they are read again: as long as they are mapped, they count as memory."""
    pages = getattr(array, "_mmap", None)
    if isinstance(pages, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        pages.madvise(mmap.MADV_DONTNEED)


@dataclass(slots=True, eq=False, weakref_slot=True)
class SpillCache:
    """Keeps arrays: those that it is given, or copies of them.

    Attributes:
        limit: Bytes that may be held in memory, of either kind.
    """

    limit: int
    _held: int = 0
    _blocks: Blocks | None = None
    _files: int = 0
    _folder: Path | None = None
    _lock: Lock = field(default_factory=Lock)

    def put(self, array: NDArray[Any]) -> NDArray[Any]:
        """Return the array as it is, or mapped from a file where memory is full."""
        # Text does not lie in one piece that a file could hold.
        if array.dtype.hasobject or self._takes(array.nbytes):
            return array
        return self._filed(array)

    def copy(self, array: NDArray[Any]) -> NDArray[Any]:
        """Return a copy of the array, or the array mapped from a file where memory is full."""
        if array.dtype.hasobject or not array.nbytes:
            return array.copy()
        with self._lock:
            self._blocks = self._blocks or Blocks(self.limit)
            block = self._blocks.take(array.nbytes)
        if block is None:
            return self._filed(array)
        kept = block.view(array.dtype).reshape(array.shape)
        np.copyto(kept, array)
        return kept

    def _filed(self, array: NDArray[Any]) -> NDArray[Any]:
        path = self._next()
        np.save(path, array)
        return np.load(path, mmap_mode="r")

    def zeros(self, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """Return an array to add to, in memory or in a file."""
        if self._takes(FLOAT_BYTES * math.prod(shape)):
            return np.zeros(shape, np.float32)
        path = self._next()
        array = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)
        if hasattr(os, "posix_fallocate"):
            # Whoever writes to a mapping for which the disk has no room is killed.
            with path.open("r+b") as file:
                os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
        return array

    def _takes(self, size: int) -> bool:
        """Tell whether so many bytes fit into memory, and count them if they do."""
        with self._lock:
            fits = self._held + size <= self.limit or not size
            if fits:
                self._held += size
            return fits

    def _next(self) -> Path:
        with self._lock:
            if self._folder is None:
                self._folder = temporary_folder()
                weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
            self._files += 1
            return self._folder / f"{self._files}.npy"

    def trim(self) -> None:
        """Give memory of copies to the system that was not needed since this was called last."""
        if self._blocks is not None:
            self._blocks.trim()

    def forget(self, array: NDArray[Any]) -> None:
        """Make room: nothing reads this array any more."""
        if isinstance(array, np.memmap):
            Path(str(array.filename)).unlink(missing_ok=True)
            return
        with self._lock:
            if self._blocks is not None:
                self._blocks.give_back(array)
            elif not array.dtype.hasobject:
                self._held -= array.nbytes
