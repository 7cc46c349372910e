"""Columns of a linear op: the inputs that one output position sees, at positions drawn at random.

A convolution computes y[p] = sum over c, q of V[c, :, q] u[c, q, p] with u[c, q, p] the input of channel c under tap q
of the window at output position p, zero where the window reaches over the border (im2col). A transposed convolution has
the same form: there u is the input that tap q carries to p, or zero where none does. A matrix product has one tap.
Positions are drawn per sample, as pixels of one sample say much the same (He et al., ICCV 2017 draw 10 per image).
"""

from __future__ import annotations

import itertools
import math

import numpy as np
from numpy.typing import NDArray

from onnxpfp.calibrate.reader import Reader

__all__ = ["columns", "draw_positions", "output_axis", "outputs_at"]

Floats = NDArray[np.floating]
Ints = NDArray[np.int64]


def output_axis(reader: Reader, ndim: int) -> int:
    """Return the axis of an op's output that holds its output channels; the weights of a product are on the right."""
    return ndim - 1 if reader.kind == "matmul" else 1


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


def outputs_at(array: Floats, axis: int, positions: Ints) -> NDArray[np.float64]:
    """Take a tensor at positions, (N * P, O) float64."""
    return _taken(array, axis, positions).astype(np.float64)


def _taken(array: Floats, axis: int, positions: Ints) -> Floats:
    moved = np.moveaxis(array, axis, -1)
    size = moved.shape[-1]
    rest = math.prod(moved.shape[1:-1]) if len(positions) == len(moved) else math.prod(moved.shape[:-1])
    rows = moved.reshape(len(positions), rest, size)
    return np.take_along_axis(rows, positions[:, :, None], axis=1).reshape(-1, size)


def columns(reader: Reader, array: Floats, spatial: tuple[int, ...], positions: Ints) -> NDArray[np.float32]:
    """Return the columns at output positions, (N * P, C * k) float32, channels first, then taps.

    Args:
        reader: The linear op: conv, conv_transpose or matmul.
        array: Its input, (N, C, ...) or with the contracted axis of a matrix product; C may be fewer than the reader's.
        spatial: Spatial shape of the output; empty for a matrix product.
        positions: (N, P) flat indices into the output's positions.
    """
    if reader.kind == "matmul":
        axis = reader.axis - len(reader.data_shape)
        return np.ascontiguousarray(_taken(array, axis % array.ndim, positions), dtype=np.float32)
    place = np.unravel_index(positions, spatial)
    lookup = _sources if reader.kind == "conv_transpose" else _windows
    found: list[Ints] = []
    inside = np.ones((*positions.shape, reader.kernel_size), np.bool_)
    for number, axis_place in enumerate(place):
        index, valid = lookup(reader, number, axis_place, array.shape[2 + number], spatial[number])
        found.append(index)
        inside &= valid
    samples = np.arange(len(positions))[:, None, None]
    # Channels are taken last, so numpy puts them behind the positions: (N, P, k, C).
    flat = np.moveaxis(array, 1, -1)[(samples, *found)]
    flat = np.where(inside[..., None], flat, 0)
    taken = np.swapaxes(flat, 2, 3)
    return np.ascontiguousarray(taken.reshape(positions.size, -1), dtype=np.float32)


def _taps(reader: Reader, number: int) -> Ints:
    """Return the tap along one spatial axis for every flat tap of the kernel, (k,)."""
    grid = itertools.product(*(range(size) for size in reader.kernel))
    return np.array([tap[number] for tap in grid], dtype=np.int64)


def _slide(reader: Reader, number: int) -> tuple[int, int]:
    """Return stride and dilation along one spatial axis."""
    window = reader.attributes
    stride = window.strides[number] if window.strides else 1
    return stride, window.dilations[number] if window.dilations else 1


def _pad_begin(reader: Reader, number: int, size: int, out: int) -> int:
    """Return the zeros in front along one spatial axis (ONNX Conv: auto_pad, pads)."""
    window = reader.attributes
    stride, dilation = _slide(reader, number)
    reach = (reader.kernel[number] - 1) * dilation + 1
    if window.auto_pad in {"SAME_UPPER", "SAME_LOWER"} or window.output_shape is not None:
        span = (out - 1) * stride + reach - size
        if reader.kind == "conv_transpose":
            extra = window.output_padding[number] if window.output_padding else 0
            span = (size - 1) * stride + extra + reach - out
        total = max(0, span)
        low_first = window.auto_pad == "SAME_LOWER" if reader.kind == "conv" else window.auto_pad != "SAME_UPPER"
        return -(-total // 2) if low_first else total // 2
    return window.pads[number] if window.pads and window.auto_pad != "VALID" else 0


def _windows(reader: Reader, number: int, place: Ints, size: int, out: int) -> tuple[Ints, NDArray[np.bool_]]:
    """Find where every tap of a convolution reads along one axis, (N, P, k), and whether it is inside the input."""
    stride, dilation = _slide(reader, number)
    begin = _pad_begin(reader, number, size, out)
    index = place[..., None] * stride - begin + _taps(reader, number) * dilation
    valid = (index >= 0) & (index < size)
    return np.where(valid, index, 0), valid


def _sources(reader: Reader, number: int, place: Ints, size: int, out: int) -> tuple[Ints, NDArray[np.bool_]]:
    """Find which input every tap of a transposed convolution carries to a place: the windows backwards."""
    stride, dilation = _slide(reader, number)
    begin = _pad_begin(reader, number, size, out)
    reached = place[..., None] + begin - _taps(reader, number) * dilation
    index = reached // stride
    valid = (reached % stride == 0) & (index >= 0) & (index < size)
    return np.where(valid, index, 0), valid
