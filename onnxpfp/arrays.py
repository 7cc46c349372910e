"""Names of array types; and large arrays a piece at a time, so that what is computed never takes their memory again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "CHUNK_BYTES",
    "FLOAT_BYTES",
    "AnyArray",
    "AnyFloats",
    "Arrays",
    "Bools",
    "Floats",
    "Floats32",
    "Ids",
    "Ints",
    "Keep",
    "chunks",
    "owned",
    "random_words",
    "runs_within",
]

T = TypeVar("T")

Floats = NDArray[np.float64]
Floats32 = NDArray[np.float32]
AnyFloats = NDArray[np.floating]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
AnyArray = NDArray[np.generic]
Arrays = Mapping[str, NDArray[Any]]
"""Arrays by name, such as what a network is fed and puts out."""

Ids = NDArray[np.int64]
"""Channel ids of every index of one axis: 0 never goes, equal ids go together."""
Keep = NDArray[np.bool_]
"""Whether each channel stays, (channels + 1,); entry 0, the fixed indices, is always true."""

CHUNK_BYTES = 4 << 20
"""Aimed-at size of one piece."""
FLOAT_BYTES = 4
"""Size of a float32 number."""


def owned(array: NDArray[Any]) -> NDArray[Any]:
    """Return an array in memory of its own.

    An output of onnxruntime lies among the intermediates of its session, whose memory lasts as long as any of its
    outputs: one of a few bytes holds all of it, also where the session is closed.
    """
    return array if array.flags.owndata else array.copy()


def chunks(length: int, bytes_each: int) -> Iterator[slice]:
    """Cut an axis into runs of about `CHUNK_BYTES`, at least one index each.

    Args:
        length: Length of the axis.
        bytes_each: What the work on one index takes.
    """
    step = max(1, CHUNK_BYTES // max(1, bytes_each))
    return (slice(start, min(start + step, length)) for start in range(0, length, step))


def runs_within(sized: Iterable[tuple[T, int]], limit: int) -> Iterator[tuple[T, ...]]:
    """Cut things into runs that are not larger than a limit together, in the given order; at least one each.

    Args:
        sized: Things with their sizes.
        limit: Of one run, in the same unit.
    """
    run: list[T] = []
    size = 0
    for thing, added in sized:
        if run and size + added > limit:
            yield tuple(run)
            run, size = [], 0
        run.append(thing)
        size += added
    if run:
        yield tuple(run)


def random_words(key: Sequence[int], first: int, rows: int, count: int) -> NDArray[np.uint64]:
    """Draw random words, (rows, count), those of each row decided by a key and the number of the row alone.

    Args:
        key: Seed, and whatever sets these draws apart from others.
        first: Number of the first row.
        rows: How many rows.
        count: Words of each.
    """
    state = np.uint64(0)
    for part in key:
        state = _mixed(state + np.uint64(part))
    numbers = _mixed(state + np.arange(first, first + rows, dtype=np.uint64))
    return _mixed(numbers[:, None] + np.arange(count, dtype=np.uint64))


def _mixed(state: Any) -> Any:
    """Return a random number for every counter (splitmix64; Steele et al., OOPSLA 2014)."""
    with np.errstate(over="ignore"):
        z = state + np.uint64(0x9E3779B97F4A7C15)
        z ^= z >> np.uint64(30)
        z *= np.uint64(0xBF58476D1CE4E5B9)
        z ^= z >> np.uint64(27)
        z *= np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
        return z
