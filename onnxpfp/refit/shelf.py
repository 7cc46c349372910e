"""Arrays that are needed later: in memory as far as the workspace goes, in temporary files beyond."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Shelf"]


@dataclass(slots=True, eq=False, weakref_slot=True)
class Shelf:
    """Keeps arrays.

    Attributes:
        limit: Bytes that may be held in memory.
    """

    limit: int
    _held: int = 0
    _files: int = 0
    _folder: Path | None = None

    def put(self, array: NDArray[Any]) -> NDArray[Any]:
        """Return the array as it is, or mapped from a file where memory is full."""
        if self._held + array.nbytes <= self.limit or not array.nbytes:
            self._held += array.nbytes
            return array
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="onnxpfp-"))
            weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        path = self._folder / f"{self._files}.npy"
        self._files += 1
        np.save(path, array)
        return np.load(path, mmap_mode="r")

    def forget(self, array: NDArray[Any]) -> None:
        """Make room: nothing reads this array any more."""
        if isinstance(array, np.memmap):
            Path(str(array.filename)).unlink(missing_ok=True)
        else:
            self._held -= array.nbytes
