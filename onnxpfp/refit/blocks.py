"""Memory that is used again: the system hands out fresh memory page by page, which takes longer than to write to it.

Blocks are cut from a few large pieces, always the first place that is free and large enough, so the front of a piece is
in use all the time and its end may never be touched.
"""

from __future__ import annotations

import mmap
import sys
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

__all__ = ["Blocks"]

PIECE = 64 << 20
"""Bytes of a piece, unless a block is larger or less is left."""
ALIGNED = 64
"""Blocks start at multiples of so many bytes from the start of their piece."""


@dataclass(slots=True, eq=False)
class _Piece:
    """A large block, the runs of it that are free, ascending, (first, behind last), and whether it served lately."""

    memory: NDArray[np.uint8]
    free: list[tuple[int, int]]
    served: bool = True

    def take(self, size: int) -> NDArray[np.uint8] | None:
        for number, (first, end) in enumerate(self.free):
            if end - first >= size:
                self.free[number : number + 1] = [(first + size, end)] if end - first > size else []
                self.served = True
                return self.memory[first : first + size]
        return None

    def give_back(self, first: int, size: int) -> None:
        runs = sorted([*self.free, (first, first + size)])
        ends = [number for number, (one, other) in enumerate(pairwise(runs)) if one[1] < other[0]]
        starts = [0, *(number + 1 for number in ends)]
        self.free = [(runs[one][0], runs[last][1]) for one, last in zip(starts, [*ends, len(runs) - 1], strict=True)]


@dataclass(slots=True, eq=False)
class Blocks:
    """Hands out blocks of memory.

    Attributes:
        limit: Bytes of all pieces together.
    """

    limit: int
    _pieces: list[_Piece] = field(default_factory=list[_Piece])

    def take(self, size: int) -> NDArray[np.uint8] | None:
        """Return a block of so many bytes, more than none; None where memory is full."""
        rounded = _rounded(size)
        for piece in self._pieces:
            block = piece.take(rounded)
            if block is not None:
                return block[:size]
        left = self.limit - sum(piece.memory.nbytes for piece in self._pieces)
        if left < rounded:
            return None
        whole = max(rounded, min(PIECE, left))
        self._pieces.append(_Piece(_fresh(whole), [(0, whole)]))
        return self.take(size)

    def give_back(self, array: NDArray[np.generic]) -> bool:
        """Take a block back by any array that fills it; returns whether it is one."""
        for piece in self._pieces:
            if array.base is piece.memory:
                address = array.__array_interface__["data"][0] - piece.memory.__array_interface__["data"][0]
                piece.give_back(address, _rounded(array.nbytes))
                return True
        return False

    def trim(self) -> None:
        """Give pieces to the system of which nothing was in use since this was called last."""
        idle = [not piece.served and piece.free == [(0, piece.memory.nbytes)] for piece in self._pieces]
        self._pieces = [piece for piece, free in zip(self._pieces, idle, strict=True) if not free]
        for piece in self._pieces:
            piece.served = False


def _fresh(size: int) -> NDArray[np.uint8]:
    """Return memory of the system in pages of the usual size.

    For large arrays numpy asks for huge pages. Where memory is in pieces the system moves others about to make some;
    that was seen to take 2.5 s/GB, six times as long as pages of the usual size.
    """
    if sys.platform == "win32":
        return np.empty(size, np.uint8)
    return np.frombuffer(mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS), np.uint8)


def _rounded(size: int) -> int:
    return -(-size // ALIGNED) * ALIGNED
