"""Distances of numbers of which some are infinite or not a number (NaN). Pure numpy.

Equal infinities, and NaN in both, are no difference. Only what is finite in both has a distance. What is finite in one
alone, or another infinity, is as far off as it can be: it counts like a number of typical size that is missing.
"""

from __future__ import annotations

import math
from dataclasses import astuple, dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from onnxpfp.arrays import Bools

__all__ = ["TINY", "Gap", "same_largest", "squared_size"]

TINY = float(np.finfo(np.float64).tiny)
BLOCK = 1 << 14
"""Numbers that are compared at a time."""
SINGLE_BLOCK = 1 << 15
"""The same of float32."""


@dataclass(frozen=True, slots=True)
class Gap:
    """How far numbers are from those of the original; gaps of parts add up.

    Attributes:
        square: ||original - other||^2 over what is finite in both.
        size: ||original||^2 over what is finite in it.
        finite: Numbers that are finite in one of both at least.
        not_finite: Numbers of the original that are not finite.
        lost: Numbers of the original in whose place the other has none.
        gained: What is not finite in the original, and something else in the other.
    """

    square: float = 0.0
    size: float = 0.0
    finite: int = 0
    not_finite: int = 0
    lost: int = 0
    gained: int = 0

    @classmethod
    def between(cls, original: NDArray[Any], other: NDArray[Any], size: float | None = None) -> Self:
        """Compare two arrays; another shape is as far off as if all were missing.

        Args:
            original: Numbers of the original.
            other: Those of the other network.
            size: What `squared_size` gives of the original, where many are compared with it. Then differences of
                float32 are taken as such: they round by 6e-8 of themselves.
        """
        if original.shape == other.shape:
            if size is None:
                square, size = _squares(original.ravel(), other.ravel())
            else:
                square = _squared_distance(original.ravel(), other.ravel())
            # Sums of squares are numbers only where all that they are of is finite, in both: nothing else to count.
            if math.isfinite(size) and math.isfinite(square):
                return cls(square, size, original.size)
        a, b = original.astype(np.float64), other.astype(np.float64)
        known = np.isfinite(a)
        size = float(np.square(np.where(known, a, 0.0)).sum())
        if a.shape != b.shape:
            return cls(max(size, 1.0), size, int(known.sum()), int(np.count_nonzero(~known)))
        both = known & np.isfinite(b)
        square = float(np.square(np.subtract(a, b, out=np.zeros_like(a), where=both)).sum())
        lost = int(np.count_nonzero(known & ~both))
        gained = int(np.count_nonzero(~known & (a != b) & ~(np.isnan(a) & np.isnan(b))))
        return cls(square, size, int(known.sum()) + gained, int(np.count_nonzero(~known)), lost, gained)

    def __add__(self, other: Gap) -> Gap:
        """Put parts together."""
        return Gap(*(mine + its for mine, its in zip(astuple(self), astuple(other), strict=True)))

    @property
    def share_unlike(self) -> float:
        """Share of the numbers that are finite in one alone, or another infinity."""
        return (self.lost + self.gained) / max(self.finite, 1)

    @property
    def relative_square(self) -> float:
        """||original - other||^2 / ||original||^2 where all is finite; what is unlike counts with its share."""
        return self.square / max(self.size, TINY) + self.share_unlike

    @property
    def relative_error(self) -> float:
        """The root of that; infinite where the original is zero and the other is not, for nothing gives its size."""
        return math.inf if self.size == 0.0 < self.square else math.sqrt(self.relative_square)


def squared_size(array: NDArray[Any]) -> float:
    """Return ||array||^2; infinite or NaN where a number of it is."""
    return _squares(array.ravel(), array.ravel())[1]


def _squares(original: NDArray[Any], other: NDArray[Any]) -> tuple[float, float]:
    """Return the sums of squares of the difference of two vectors and of the first, block by block in the cache."""
    square = size = 0.0
    with np.errstate(invalid="ignore", over="ignore"):
        for start in range(0, original.size, BLOCK):
            a, b = (each[start : start + BLOCK].astype(np.float64) for each in (original, other))
            size += float(a @ a)
            a -= b
            square += float(a @ a)
    return square, size


def _squared_distance(original: NDArray[Any], other: NDArray[Any]) -> float:
    """Return the sum of squares of the difference of two vectors, float32 if both are, block by block in the cache."""
    if not original.dtype == other.dtype == np.float32:
        return _squares(original, other)[0]
    gaps, wide = np.empty(SINGLE_BLOCK, np.float32), np.empty(SINGLE_BLOCK)
    square = 0.0
    with np.errstate(invalid="ignore", over="ignore"):
        for start in range(0, original.size, SINGLE_BLOCK):
            a, b = (each[start : start + SINGLE_BLOCK] for each in (original, other))
            gap = wide[: a.size]
            gap[...] = np.subtract(a, b, out=gaps[: a.size])
            square += float(gap @ gap)
    return square


def same_largest(original: NDArray[Any], other: NDArray[Any]) -> tuple[Bools, Bools]:
    """Compare the largest class of every sample.

    Args:
        original: Class scores, (N, C); -inf is a class that cannot be.
        other: Those of another network; in another shape none agrees.

    Returns:
        Whether they agree, (N,), and whether the original has a largest class, (N,). A sample of which only the other
        has scores that are no numbers does not agree.
    """
    if original.shape != other.shape:
        other = np.full_like(original, np.nan)
    known, others = ~np.isnan(original), ~np.isnan(other)
    largest, its = (np.where(ok, x, -np.inf).argmax(1) for x, ok in ((original, known), (other, others)))
    voting: Bools = np.asarray(known.any(axis=1))
    return (largest == its) & (known == others).all(1), voting
