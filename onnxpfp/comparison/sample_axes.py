"""The axis along which a tensor has one sample after the other, found by trial.

The first of several samples is fed in the place of all others too: along that axis the first part stays what it was,
and the second becomes the same. The length of an axis would not tell: windows, tokens and heads are often folded into
the axis of the samples, before them or behind.
"""

from __future__ import annotations

import numpy as np

from onnxpfp.arrays import AnyArray
from onnxpfp.comparison.finite import Gap
from onnxpfp.data.samples import Feed, Samples

__all__ = ["sample_axis", "samples_apart", "twin_feeds"]

ALIKE = 1e-2
"""Relative error up to which a sample is the same alone and among others: runs of other sizes round otherwise."""


def twin_feeds(samples: Samples, feed: Feed, count: int) -> tuple[Feed, Feed, int]:
    """Make the two feeds of a trial.

    Args:
        samples: What the feed is of.
        feed: One with several samples.
        count: How many.

    Returns:
        Some of its samples, the first one in the place of each of them, and how many these are.
    """
    some, number = (samples.part(feed, count, 0, 2), 2) if samples.batched else (feed, count)
    axes = samples.axes
    again = {
        name: array if (axis := axes.get(name)) is None or array.shape[axis] != number else _first(array, axis, number)
        for name, array in some.items()
    }
    return some, again, number


def _first(array: AnyArray, axis: int, number: int) -> AnyArray:
    """Return the first sample so many times."""
    return np.repeat(np.take(array, [0], axis), number, axis)


def sample_axis(one: AnyArray, again: AnyArray, number: int) -> int | None:
    """Return the axis along which samples lie, None where there is none.

    Args:
        one: What a network makes of some samples.
        again: What it makes of the first one in the place of each of them.
        number: How many there are.
    """
    if one.shape != again.shape:
        return None
    for axis in range(one.ndim):
        parts, same = samples_apart(one, axis, number), samples_apart(again, axis, number)
        if parts is not None and same is not None and max(_gap(parts[0], same[0]), _gap(same[0], same[1])) <= ALIKE:
            return axis
    return None


def _gap(one: AnyArray, other: AnyArray) -> float:
    return Gap.between(one, other).relative_error


def samples_apart(array: AnyArray, axis: int | None, count: int) -> AnyArray | None:
    """Bring samples that lie one after the other along an axis to the front, (count, ...); None where they do not."""
    if axis is None or array.shape[axis] % count or not array.size:
        return None
    front = np.moveaxis(array, axis, 0)
    return front.reshape(count, -1, *front.shape[1:])
