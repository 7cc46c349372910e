"""Samples that are read when they are asked for, in the form of an array with one after the other along axis 0.

What was read is kept as far as it takes an eighth of the memory; the rest is read again at every pass over the samples.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxpfp.runtime.memory import memory_limit

__all__ = ["Kept", "LazyRows"]

_SHARE = 8
"""One of so many bytes of the memory is for samples that are kept."""


@dataclass(slots=True, eq=False)
class Kept:
    """What was read and need not be read again.

    Attributes:
        limit: Bytes that it may take.
    """

    limit: int = field(default_factory=lambda: memory_limit() // _SHARE)
    _arrays: dict[int, NDArray[Any]] = field(default_factory=dict[int, NDArray[Any]])
    _taken: int = 0

    def get(self, number: int, read: Callable[[int], NDArray[Any]]) -> NDArray[Any]:
        """Return an array; read it where it is not kept."""
        known = self._arrays.get(number)
        if known is not None:
            return known
        array = read(number)
        if self._taken + array.nbytes <= self.limit:
            self._arrays[number] = array
            self._taken += array.nbytes
        return array


@dataclass(frozen=True, slots=True, eq=False)
class LazyRows:
    """Rows of one shape that are read when they are asked for.

    Attributes:
        shape: As of the whole array, (n, ...).
        dtype: Its element type.
        read: Reads a row in its raw form, by its number; it is kept in this form.
        finish: Makes rows of a batch of raw ones, (m, ...).
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    read: Callable[[int], NDArray[Any]]
    finish: Callable[[NDArray[Any]], NDArray[Any]] = np.asarray
    _kept: Kept = field(default_factory=Kept)

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    def __getitem__(self, chosen: slice | NDArray[np.int64]) -> NDArray[Any]:
        """Return some rows.

        Args:
            chosen: Their numbers.

        Raises:
            CalibrationError: One cannot be read.
        """
        numbers: list[int] = np.arange(len(self))[chosen].tolist()
        if not numbers:
            return np.empty((0, *self.shape[1:]), self.dtype)
        return self.finish(np.stack([self._kept.get(number, self.read) for number in numbers]))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """Return all rows as one array."""
        return self[:].astype(dtype or self.dtype, copy=False)
