"""Detection of channels that are dead, constant or multiples of another, from small statistics of every index.

A few random projections P_j = <x_j, r> over samples and positions stand for a channel's whole data: where
x_j = alpha x_k, P_j = alpha P_k, and the reverse holds but for a set of directions r of measure zero. A direction is
the product of a random number per sample, which the number of the sample decides, and one per position. Projections
are sums, so they add up over batches and shards. What they propose is checked on all numbers afterwards
(`largest_gaps`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxpfp.arrays import AnyFloats, Bools, Floats, Ints, chunks, random_words

__all__ = [
    "NEAR",
    "PROJECTIONS",
    "LosslessChoice",
    "Trace",
    "View",
    "choose_removals",
    "largest_gaps",
    "trace",
    "unseen",
]


CACHED = 16
"""The part of a block of `onnxpfp.arrays` that passes through the processor's cache."""
PROJECTIONS = 4
PLACES = 64
"""Tensors whose random numbers are kept from batch to batch."""
GRAIN = 1e-6
"""Relative rounding that is allowed at least: a few steps of float32."""
COARSE = 2.0**-7
"""A step of bfloat16, which numpy does not know."""
NEAR = 1e-4
"""Relative distance of projections below which two channels may be multiples of each other."""
LARGEST_FACTOR = 1e4
"""Larger factors would lift rounding of weights above the numbers beside them."""


@dataclass(frozen=True, slots=True, eq=False)
class Trace:
    """Small statistics of every index of one axis: its range, scale and random projections.

    Attributes:
        low: Smallest number, (C,).
        high: Largest number, (C,).
        projections: Sums over samples and positions with random normal weights, the same for all indices,
            (C, PROJECTIONS).
        grain: Relative rounding of the numbers.
    """

    low: Floats
    high: Floats
    projections: Floats
    grain: float

    def merge(self, other: Trace) -> Trace:
        """Return what was seen on both sets of samples."""
        return Trace(
            np.minimum(self.low, other.low),
            np.maximum(self.high, other.high),
            self.projections + other.projections,
            max(self.grain, other.grain),
        )

    @property
    def scale(self) -> Floats:
        """Largest magnitude, (C,)."""
        return np.maximum(np.abs(self.low), np.abs(self.high))

    @property
    def constant(self) -> Bools:
        """Whether all numbers of an index are the same, to rounding, (C,)."""
        with np.errstate(invalid="ignore"):
            return (self.high - self.low <= self.grain * self.scale) & np.isfinite(self.scale)


def _grain(dtype: np.dtype[Any]) -> float:
    if dtype.kind in "iub":
        return 0.0
    return max(GRAIN, float(np.finfo(dtype).eps)) if dtype.kind == "f" else COARSE


def _pieces(array: NDArray[Any], axis: int, *, single: bool = False) -> Iterator[tuple[Ints, AnyFloats]]:
    """Yield an array as (outer, C, inner) in pieces that stay in the cache, and their indices.

    Args:
        array: The array.
        axis: That of C.
        single: Whether what has single precision may keep it; all else has double precision.
    """
    outer = math.prod(array.shape[:axis])
    flat = array.reshape(outer, array.shape[axis], -1)
    dtype = np.float32 if single and array.dtype == np.float32 else np.float64
    if flat.size:
        for run in chunks(outer, CACHED * 8 * flat[0].size):
            yield np.arange(outer)[run], flat[run].astype(dtype, copy=False)


def _project(part: AnyFloats, directions: AnyFloats) -> Floats:
    """Add up products over both axes beside the channels: (a, C, b) and (a, b, p) to (C, p)."""
    directions = directions.astype(part.dtype, copy=False)
    if part.shape[2] > 1:
        return np.matmul(part, directions).sum(0, dtype=np.float64)
    return (part[:, :, 0].T @ directions[:, 0]).astype(np.float64)


def trace(array: NDArray[Any], axis: int, key: Sequence[int], first: int) -> Trace:
    """Take the trace of the indices of an axis.

    Args:
        array: An activation, (N, ...).
        axis: The axis, not 0.
        key: What sets the directions of the projections apart from those of others.
        first: Number of the first of the N rows among those of all samples.
    """
    size, rows = array.shape[axis], len(array)
    between, inner = math.prod(array.shape[1:axis]), math.prod(array.shape[axis + 1 :])
    of_rows = _normal(random_words((*key, 0), first, rows, 2 * PROJECTIONS))
    of_places = _of_places((*key, 1), between, inner)
    grain = _grain(array.dtype)
    result = unseen(size, grain)
    # NaN and infinities stay what they are: no comparison with them holds, so such channels stay.
    with np.errstate(invalid="ignore", over="ignore"):
        # Rounding of the sums is far below `NEAR`, and what they propose is checked on all numbers.
        for outer, part in _pieces(array, axis, single=True):
            row, place = np.divmod(outer, between)
            projections = _project(part, of_rows[row, None] * of_places[place])
            low, high = (x.astype(np.float64) for x in (part.min(2).min(0), part.max(2).max(0)))
            result = result.merge(Trace(low, high, projections, grain))
    return result


@lru_cache(maxsize=PLACES)
def _of_places(key: tuple[int, ...], between: int, inner: int) -> Floats:
    """Return the random numbers of the positions, (between, inner, PROJECTIONS): the same for every batch."""
    return _normal(random_words(key, 0, between * inner, 2 * PROJECTIONS)).reshape(between, inner, PROJECTIONS)


def unseen(size: int, grain: float = 0.0) -> Trace:
    """Return the identity of `Trace.merge` for an axis: of no index is anything known, so none is dead or constant."""
    nothing = np.full(size, np.inf, np.float64)
    return Trace(nothing, -nothing, np.zeros((size, PROJECTIONS)), grain)


def _normal(words: NDArray[np.uint64]) -> Floats:
    """Make normal numbers of pairs of random words, (rows, n) of (rows, 2 n) (Box and Muller, 1958)."""
    uniform = (words >> np.uint64(11)).astype(np.float64) * 2.0**-53
    one, two = uniform[:, ::2], uniform[:, 1::2]
    return np.sqrt(-2.0 * np.log1p(-one)) * np.cos(2.0 * np.pi * two)


def largest_gaps(array: NDArray[Any], axis: int, dropped: Ints, kept: Ints, factor: Floats) -> Floats:
    """Return the largest |x_j - alpha x_k| of pairs of indices of an axis, (pairs,)."""
    gaps = np.zeros(dropped.size)
    with np.errstate(invalid="ignore", over="ignore"):
        for _, part in _pieces(array, axis):
            apart = np.abs(part[:, dropped] - factor[:, None] * part[:, kept])
            gaps = np.maximum(gaps, apart.max((0, 2)))
    return gaps


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """A group's n channels as one consumer reads them, or several that share their weights.

    A channel has one index for each of R ranks: positions behind a Flatten, groups of a convolution.

    Attributes:
        free: Whether a channel can go here without a change of weights: dead, or folded into the bias, (n,).
        alive: Whether an index was ever not zero, (n, R).
        scale: Largest magnitude of an index, (n, R).
        projections: Of every index, (n, R, p).
        near: Relative distance of projections below which channels may be multiples.
        merges: Whether weights can take over others here.
    """

    free: Bools
    alive: Bools
    scale: Floats
    projections: Floats
    near: float
    merges: bool

    def factors(self, channel: int, others: Ints) -> tuple[Bools, Floats]:
        """Find of which others a channel is a multiple at all ranks, and the factors alpha.

        Returns:
            (m,) truth values, and (m, R): 0 where the channel is dead.
        """
        mine, theirs = self.projections[channel], self.projections[others]
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            factor = (mine * theirs).sum(-1) / np.square(theirs).sum(-1)
            apart = np.linalg.norm(mine - factor[..., None] * theirs, axis=-1)
            near = (apart <= self.near * np.linalg.norm(mine, axis=-1)) & self.alive[others]
            near &= np.abs(factor) <= LARGEST_FACTOR
        alive = self.alive[channel]
        return (near | ~alive).all(-1), np.where(alive, factor, 0.0)


@dataclass(frozen=True, slots=True, eq=False)
class LosslessChoice:
    """The channels of one group that can go, and their partners.

    Attributes:
        gone: Channels that go without any partner: dead or folded everywhere, (n,).
        partner: The channel that takes a channel over, -1 where there is none, (n,).
    """

    gone: Bools
    partner: Ints


def choose_removals(views: Sequence[View], classes: Ints) -> LosslessChoice:
    """Choose what goes of a group.

    1. What is free at every consumer goes, but never all of a group.
    2. Of channels that are multiples of each other wherever they are not free one stays: the one that is not zero at
       most places, then the largest, then the first.

    Args:
        views: What the consumers see.
        classes: Only channels of one class may be merged, (n,).
    """
    removed = np.logical_and.reduce([view.free for view in views])
    if removed.all():
        removed[0] = False
    partner = np.full(removed.size, -1, np.int64)
    possible = _with_neighbours(views, removed)
    order = [channel for channel in _by_reach(views) if possible[channel]]
    stays = ~removed & ~possible
    for channel in order:
        others = np.flatnonzero(stays & (classes == classes[channel]))
        for view in views:
            if others.size and not view.free[channel]:
                others = others[view.factors(channel, others)[0]]
        if others.size:
            partner[channel] = others[0]
        else:
            stays[channel] = True
    return LosslessChoice(removed, partner)


def _by_reach(views: Sequence[View]) -> list[int]:
    """Order channels so that none is a multiple of a later one alone."""
    reach = np.sum([np.where(view.free[:, None], False, view.alive).sum(1) for view in views], axis=0)
    scale = np.max([np.nan_to_num(view.scale).max(1) for view in views], axis=0)
    # Stable, so that equal ones stay in the order of their ids.
    return np.lexsort(np.stack([-scale, -reach])).tolist()


def _with_neighbours(views: Sequence[View], removed: Bools) -> Bools:
    """Tell which channels may be multiples of others, without comparing all pairs.

    Multiples of each other lie in the same direction, so any two of their projections have the same angle modulo pi.
    """
    possible = ~removed
    for view in views:
        for first in range(0, min(view.projections.shape[2], PROJECTIONS) - 1, 2):
            with np.errstate(invalid="ignore"):
                angle = np.arctan2(view.projections[..., first + 1], view.projections[..., first]) % np.pi
            angle[removed if view.merges else slice(None)] = np.nan
            angle[~view.alive] = np.nan
            lonely = (_distance_to_next(angle) > view.near) & view.alive
            possible &= view.free | ~lonely.any(1)
    return possible


def _distance_to_next(angle: Floats) -> Floats:
    """Return how far the nearest other angle modulo pi of the same column lies, (n, R)."""
    count = len(angle)
    if count < 2:
        return np.full(angle.shape, np.inf)
    order = np.argsort(angle, axis=0)
    ordered = np.take_along_axis(angle, order, 0)
    known = np.isfinite(ordered).sum(0)
    # NaN stands at the end: the last known angle is followed by the first one, half a turn on.
    following = np.concatenate([ordered[1:], ordered[:1]])
    columns = np.flatnonzero(known)
    following[known[columns] - 1, columns] = ordered[0, columns] + np.pi
    step = following - ordered
    before = np.concatenate([step[-1:], step[:-1]])
    before[0, columns] = step[known[columns] - 1, columns]
    nearest = np.empty_like(angle)
    np.put_along_axis(nearest, order, np.fmin(step, before), 0)
    return np.nan_to_num(nearest, nan=np.inf)
