"""im2col as index arithmetic, without copies: the inputs that the taps of a convolution read.

A convolution computes y[p] = sum over c, q of V[c, :, q] u[c, q, p] with u[c, q, p] the input of channel c under tap q
of the window at output position p, zero where the window reaches over the border. A transposed convolution has the same
form: there u is the input that tap q carries to p, or zero where none does. A matrix product has one tap.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np

from onnxpfp.arrays import Bools, Ints
from onnxpfp.linear.ops import LinearOp

__all__ = ["output_sizes", "tap_sources"]


def tap_sources(
    op: LinearOp, sizes: Sequence[int], spatial: Sequence[int], positions: Ints
) -> tuple[Ints, Bools | None]:
    """Find which input every tap reads at output positions.

    Args:
        op: A conv or conv_transpose.
        sizes: Spatial shape of its input.
        spatial: Spatial shape of its output.
        positions: Flat output positions, (...).

    Returns:
        Flat input positions (..., k), 0 where there is none, and whether there is one; None where there always is.
    """
    lookup = _carried if op.kind == "conv_transpose" else _windows
    flat = np.zeros((*positions.shape, op.kernel_size), np.int64)
    inside = np.ones(flat.shape, np.bool_)
    for number, coordinates in enumerate(np.unravel_index(positions, tuple(spatial))):
        index, valid = lookup(op, number, coordinates, sizes[number], spatial[number])
        flat += index * math.prod(sizes[number + 1 :])
        inside &= valid
    if inside.all():
        return flat, None
    return np.where(inside, flat, 0), inside


def output_sizes(op: LinearOp, sizes: Sequence[int]) -> tuple[int, ...]:
    """Return the spatial shape of the output of a conv or conv_transpose (ONNX Conv, ConvTranspose)."""
    window, rank = op.attributes, len(sizes)
    if window.output_shape is not None:
        return window.output_shape[-rank:]
    counts: list[int] = []
    for number, size in enumerate(sizes):
        stride, dilation = _slide(op, number)
        reach = (op.kernel[number] - 1) * dilation + 1
        pads = 0
        if window.pads and window.auto_pad in {None, "", "NOTSET"}:
            pads = window.pads[number] + window.pads[number + rank]
        same = window.auto_pad in {"SAME_UPPER", "SAME_LOWER"}
        if op.kind == "conv_transpose":
            extra = window.output_padding[number] if window.output_padding else 0
            whole = (size - 1) * stride + extra + reach
            # Automatic pads only take away.
            counts.append(min(size * stride, whole) if same else whole - pads)
        else:
            counts.append(-(-size // stride) if same else (size + pads - reach) // stride + 1)
    return tuple(counts)


def _taps(op: LinearOp, number: int) -> Ints:
    """Return the tap along one spatial axis for every flat tap of the kernel, (k,)."""
    grid = itertools.product(*(range(size) for size in op.kernel))
    return np.array([tap[number] for tap in grid], dtype=np.int64)


def _slide(op: LinearOp, number: int) -> tuple[int, int]:
    """Return stride and dilation along one spatial axis."""
    window = op.attributes
    stride = window.strides[number] if window.strides else 1
    return stride, window.dilations[number] if window.dilations else 1


def _pad_begin(op: LinearOp, number: int, size: int, out: int) -> int:
    """Return the zeros in front along one spatial axis (ONNX Conv: auto_pad, pads)."""
    window = op.attributes
    stride, dilation = _slide(op, number)
    reach = (op.kernel[number] - 1) * dilation + 1
    if window.auto_pad in {"SAME_UPPER", "SAME_LOWER"} or window.output_shape is not None:
        span = (out - 1) * stride + reach - size
        if op.kind == "conv_transpose":
            extra = window.output_padding[number] if window.output_padding else 0
            span = (size - 1) * stride + extra + reach - out
        total = max(0, span)
        low_first = window.auto_pad == "SAME_LOWER" if op.kind == "conv" else window.auto_pad != "SAME_UPPER"
        return -(-total // 2) if low_first else total // 2
    return window.pads[number] if window.pads and window.auto_pad != "VALID" else 0


def _windows(op: LinearOp, number: int, coordinates: Ints, size: int, out: int) -> tuple[Ints, Bools]:
    """Find where every tap of a convolution reads along one axis, (..., k), and whether it is inside the input."""
    stride, dilation = _slide(op, number)
    begin = _pad_begin(op, number, size, out)
    index = coordinates[..., None] * stride - begin + _taps(op, number) * dilation
    valid = (index >= 0) & (index < size)
    return np.where(valid, index, 0), valid


def _carried(op: LinearOp, number: int, coordinates: Ints, size: int, out: int) -> tuple[Ints, Bools]:
    """Find which input every tap of a transposed convolution carries to a place: the windows backwards."""
    stride, dilation = _slide(op, number)
    begin = _pad_begin(op, number, size, out)
    reached = coordinates[..., None] + begin - _taps(op, number) * dilation
    index = reached // stride
    valid = (reached % stride == 0) & (index >= 0) & (index < size)
    return np.where(valid, index, 0), valid
