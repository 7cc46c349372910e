"""Subnormal numbers of a format: those between zero and its smallest normal number.

Some processors multiply by them up to a hundred times slower than by others. Their digits are few, so where numbers are
written anew, each goes to zero or to the smallest normal number, whichever is nearer: the rounding of a format without
subnormal numbers, off by at most half the smallest normal number (IEEE 754-2019, 3.3; "flush to zero" is coarser, as it
takes all of them to zero).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxpfp.arrays import AnyArray, Bools, Floats, chunks

__all__ = ["count_subnormal", "headroom", "is_subnormal", "smallest_normal", "unit_roundoff", "without_new_subnormal"]

FEW_EXPONENTS = 2.0**-20
"""The smallest normal number of half precision is above this, that of other formats far below."""


def smallest_normal(dtype: np.dtype[Any]) -> float:
    """Return the smallest normal number of a float type; one that numpy does not know is bfloat16."""
    return float(np.finfo(dtype).smallest_normal) if dtype.kind == "f" else 2.0**-126


def unit_roundoff(dtype: np.dtype[Any]) -> float:
    """Return the largest relative error of rounding to a float type; one that numpy does not know is bfloat16."""
    return float(np.finfo(dtype).eps) / 2 if dtype.kind == "f" else 2.0**-8


def headroom(dtype: np.dtype[Any]) -> float:
    """Return how many times larger than seen numbers may be, where it is asked what a result can tell.

    2^40 (10^12) where a format has the exponents for it. Half precision has 2^30 from its smallest normal number to its
    largest, weights and activations together, so there it is 16.
    """
    return 2.0**4 if smallest_normal(dtype) > FEW_EXPONENTS else 2.0**40


def is_subnormal(array: AnyArray) -> Bools:
    """Tell which numbers of a float array are subnormal."""
    smallest = np.asarray(smallest_normal(array.dtype), array.dtype)
    magnitude: NDArray[Any] = np.abs(array)
    with np.errstate(invalid="ignore"):
        return np.asarray((magnitude < smallest) & (magnitude != 0), np.bool_)


def count_subnormal(array: AnyArray) -> int:
    """Count the subnormal numbers of a float array, a piece at a time."""
    if not array.size:
        return 0
    rows = array.reshape(len(array), -1) if array.ndim else array.reshape(1, 1)
    return sum(int(is_subnormal(rows[run]).sum()) for run in chunks(len(rows), rows[0].nbytes))


def without_new_subnormal(new: Floats, before: AnyArray) -> AnyArray:
    """Bring new numbers to the type of those that they replace, none of them subnormal that was not there before.

    Args:
        new: The new numbers; infinite where they do not fit the type.
        before: The numbers that they replace, of the same shape, or a single one: what is the same in both stays.
    """
    dtype = before.dtype
    with np.errstate(over="ignore"):
        rounded = np.asarray(new.astype(dtype))
    replaced = is_subnormal(rounded) & (rounded != before)
    if replaced.any():
        smallest, small = smallest_normal(dtype), new[replaced]
        nearest = np.where(np.abs(small) < smallest / 2, 0.0, np.copysign(smallest, small))
        rounded[replaced] = nearest.astype(dtype)
    return rounded
