"""Columns of a linear op: the inputs that one output position sees, at positions drawn at random.

Which input a tap reads is said in `linear.im2col`.
Positions are drawn per sample, as pixels of one sample say much the same (He et al., ICCV 2017 draw 10 per image).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxpfp.arrays import AnyFloats, Bools, Floats, Ints, random_words
from onnxpfp.linear.im2col import output_sizes, tap_sources
from onnxpfp.linear.ops import LinearOp

__all__ = [
    "column_sums",
    "columns",
    "draw_positions",
    "output_shape",
    "outputs_at",
    "sample_positions",
    "samples_first",
]

OFTEN = 2
"""Times that each input is read on average above which it is worth to bring its channels together first."""


LARGE = 1 << 12
"""Numbers of the columns of a sample from which on each sample is worth steps of its own."""
_SMALL_MAP = 64
"""Inputs of a channel for every drawn position up to which a product takes less time than looking inputs up."""
_SPARE = 8
"""Standard deviations of the number of random words below a limit that are added to it."""
_SEVERAL = 4
"""Where fewer positions than that are for each of those, all are sorted out."""


def samples_first(array: NDArray[Any], axis: int) -> tuple[NDArray[Any], int]:
    """Bring the axis of the samples to the front, a view: it is there, unless that of the channels is.

    Args:
        array: A tensor.
        axis: The axis of its channels, counted from the front.

    Returns:
        The tensor, and the axis of its channels.
    """
    if axis:
        return array, axis
    return np.moveaxis(array, 0, 1) if array.ndim > 1 else array[None], 1


def output_shape(op: LinearOp, data: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape of an op's output, as if it had one channel."""
    if op.kind == "matmul":
        return (*data[: op.axis], *data[op.axis + 1 :], 1)
    return (data[0], 1, *output_sizes(op, data[2:]))


def draw_positions(shape: tuple[int, ...], axis: int, per_sample: int, rng: np.random.Generator) -> Ints:
    """Draw positions without repeats, evenly many of every sample.

    Args:
        shape: Shape of the tensor, (N, ...).
        axis: Its channel axis, which is no position.
        per_sample: Most positions of one sample.
        rng: Source of the draws.

    Returns:
        (N, P) flat indices into the axes behind the first without the channels, ascending in every row.
    """
    rest = math.prod(size for number, size in enumerate(shape) if number not in (0, axis))
    samples = shape[0] if axis != 0 else 1
    if rest <= per_sample:
        return np.broadcast_to(np.arange(rest, dtype=np.int64), (samples, rest))
    drawn = [rng.choice(rest, per_sample, replace=False, shuffle=False) for _ in range(samples)]
    return np.sort(np.array(drawn, np.int64).reshape(samples, per_sample), axis=1)


def sample_positions(shape: tuple[int, ...], axis: int, per_sample: int, key: Sequence[int], first: int) -> Ints:
    """Draw positions without repeats, those of each sample decided by a key and the sample's number alone.

    So batches of any size, and shards of the samples, draw what one run over all samples draws.

    Args:
        shape: Shape of the tensor, (N, ...).
        axis: Its channel axis, which is no position; not 0.
        per_sample: Most positions of one sample.
        key: Seed, and whatever sets these draws apart from others.
        first: Number of the first sample among all samples.

    Returns:
        (N, P) flat indices into the axes behind the first without the channels, ascending in every row.
    """
    rest = math.prod(size for number, size in enumerate(shape) if number not in (0, axis))
    if rest <= per_sample:
        return np.broadcast_to(np.arange(rest, dtype=np.int64), (shape[0], rest))
    return np.sort(_least(random_words(key, first, shape[0], rest), per_sample), axis=1)


def _least(words: NDArray[np.uint64], count: int) -> Ints:
    """Return where the `count` least random words of every row stand, (rows, count) int64.

    Few words are below a limit that is chosen so that nearly every row has enough of them: only these are sorted out.
    """
    rows, length = words.shape
    wanted = count + _SPARE * math.sqrt(count)
    if wanted * _SEVERAL < length:
        row, column = np.nonzero(words < np.uint64(wanted / length * 2.0**64))
        found = np.bincount(row, minlength=rows)
        if found.min() >= count:
            below = np.full((rows, int(found.max())), np.iinfo(np.uint64).max)
            places = np.zeros(below.shape, np.int64)
            slot = np.arange(len(row)) - np.repeat(np.cumsum(found) - found, found)
            below[row, slot], places[row, slot] = words[row, column], column
            return np.take_along_axis(places, np.argpartition(below, count - 1, axis=1)[:, :count], 1)
    return np.argpartition(words, count - 1, axis=1)[:, :count].astype(np.int64)


def outputs_at(array: AnyFloats, axis: int, positions: Ints) -> NDArray[np.float64]:
    """Take a tensor at positions, (N * P, O) float64."""
    return _taken(array, axis, positions).astype(np.float64)


def _taken(array: AnyFloats, axis: int, positions: Ints) -> AnyFloats:
    if axis == 0:
        array, axis = np.moveaxis(array, 0, -1), array.ndim - 1
    if len(positions) != len(array):
        # All positions are those of one sample.
        array, axis = array[None], axis + 1
    size, behind = array.shape[axis], math.prod(array.shape[axis + 1 :])
    flat = array.reshape(len(array), math.prod(array.shape[1:axis]), size, behind)
    before, after = np.divmod(positions, max(behind, 1))
    return flat[np.arange(len(flat))[:, None], before, :, after].reshape(-1, size)


def columns(op: LinearOp, array: AnyFloats, spatial: tuple[int, ...], positions: Ints) -> NDArray[np.float32]:
    """Return the columns at output positions, (N * P, C * k) float32, channels first, then taps.

    Args:
        op: The linear op: conv, conv_transpose or matmul.
        array: Its input, (N, C, ...) or with the contracted axis of a matrix product; C may be fewer than the op's.
        spatial: Spatial shape of the output; empty for a matrix product.
        positions: (N, P) flat indices into the output's positions.
    """
    if op.kind == "matmul":
        axis = op.axis - len(op.data_shape)
        return np.ascontiguousarray(_taken(array, axis % array.ndim, positions), dtype=np.float32)
    if op.kernel_size == 1 and op.attributes.is_identity:
        # An output position sees the same position of the input.
        return np.ascontiguousarray(_taken(array, 1, positions), dtype=np.float32)
    index, inside = tap_sources(op, array.shape[2:], spatial, positions)
    flat = array.reshape(*array.shape[:2], -1)
    if op.kernel_size > 1 and index[0].size * flat.shape[1] >= LARGE:
        return _side_by_side(flat, index, inside)
    # Channels are taken last, so numpy puts them behind the positions: (N, P, k, C).
    last = np.moveaxis(flat, 1, -1)
    if index[0].size > OFTEN * last.shape[1]:
        last = np.ascontiguousarray(last)
    taken = last[np.arange(len(positions))[:, None, None], index]
    if inside is not None:
        taken[~inside] = 0
    return np.ascontiguousarray(np.swapaxes(taken, 2, 3).reshape(positions.size, -1), dtype=np.float32)


def column_sums(op: LinearOp, array: AnyFloats, spatial: tuple[int, ...], positions: Ints) -> Floats:
    """Return the sums of the columns over all output positions, (C * k,) float64; the arguments are those of `columns`.

    Where maps are small, how often each tap reads each input is a matrix, and the sums are one product with it.
    """
    length = math.prod(array.shape[2:])
    if op.kind == "matmul" or op.kernel_size == 1 or length > _SMALL_MAP * positions.shape[1]:
        return columns(op, array, spatial, positions).sum(0, dtype=np.float64)
    index, inside = tap_sources(op, array.shape[2:], spatial, positions)
    samples, taps = len(array), op.kernel_size
    reads = (np.arange(samples)[:, None, None] * length + index) * taps + np.arange(taps)
    there = reads.ravel() if inside is None else reads[inside]
    often = np.bincount(there, minlength=samples * length * taps).reshape(samples, length, taps)
    with np.errstate(over="ignore", invalid="ignore"):
        sums = np.matmul(array.reshape(*array.shape[:2], length), often.astype(np.float32))
    if np.isfinite(sums).all():
        return sums.sum(0, dtype=np.float64).ravel()
    # What no tap reads there does not count, whatever it is.
    return columns(op, array, spatial, positions).sum(0, dtype=np.float64)


def _side_by_side(flat: AnyFloats, index: Ints, inside: Bools | None) -> NDArray[np.float32]:
    """Return the columns of an op with several taps, sample by sample: what lies between stays in the cache.

    Args:
        flat: Its input, (N, C, positions of the input).
        index: What the taps read at the drawn positions of the output, (N, P, k).
        inside: Whether that is there, (N, P, k); None where it always is.
    """
    channels = flat.shape[1]
    columns = np.empty((*index.shape[:2], channels, index.shape[2]), np.float32)
    often = index[0].size > OFTEN * flat.shape[2]
    for number, (sample, read) in enumerate(zip(flat, index, strict=True)):
        # (P, k, C) or, where few inputs are read, (C, P, k).
        taken = np.take(np.ascontiguousarray(sample.T), read, 0) if often else np.take(sample, read, 1)
        if inside is not None:
            taken[(~inside[number],) if often else (slice(None), ~inside[number])] = 0
        columns[number] = taken.swapaxes(1, 2) if often else taken.swapaxes(0, 1)
    return columns.reshape(index.shape[0] * index.shape[1], -1)
