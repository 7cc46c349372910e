"""What a change of a layer's weights does to the sign parts of its sums; nothing here is onnxpfp's code.

A sum of a layer has four sign parts, one for each sign of weights and of inputs: the products of that weight sign and
that input sign, at one output and one position (PFP, ICLR 2020, section 4). Where channels go, or weights are scaled,
the part z becomes z', and its relative error is |z - z'| / z.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Layer", "Window", "part_errors", "sign_parts"]

Array = NDArray[Any]

GUARD = 2.0**-23
"""Sign parts up to this, relative to the largest of the layer, count as zero."""


@dataclass(frozen=True, slots=True)
class Window:
    """The window of a convolution.

    Attributes:
        kernel: Its size.
        pads: Zeros before and behind each axis: (top, left, bottom, right).
        strides: Steps between positions.
        dilations: Steps within the window.
    """

    kernel: tuple[int, int]
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    strides: tuple[int, int] = (1, 1)
    dilations: tuple[int, int] = (1, 1)

    def cut(self, maps: Array) -> Array:
        """Cut maps (N, C, H, W) into windows, (N, P, C, k)."""
        top, left, bottom, right = self.pads
        maps = np.pad(maps, ((0, 0), (0, 0), (top, bottom), (left, right)))
        size = tuple((k - 1) * d + 1 for k, d in zip(self.kernel, self.dilations, strict=True))
        cut = np.lib.stride_tricks.sliding_window_view(maps, size, (2, 3))
        down, right_by = self.strides
        cut = cut[:, :, ::down, ::right_by, :: self.dilations[0], :: self.dilations[1]]
        return cut.transpose(0, 2, 3, 1, 4, 5).reshape(len(maps), -1, maps.shape[1], math.prod(self.kernel))


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer that reads channels.

    Attributes:
        data: The tensor that it reads: maps (N, C, H, W) where it has a window, else rows (N, ..., C).
        weight: Its weight.
        window: Its window; None where it multiplies rows.
        outputs_first: Whether the weight of rows is (O, C); else it is (C, O). That of windows is (O, C, *kernel).
    """

    data: str
    weight: str
    window: Window | None = None
    outputs_first: bool = False

    @property
    def axes(self) -> tuple[int, int]:
        """Contracted axis and output axis of the weight."""
        return (0, 1) if self.window is None and not self.outputs_first else (1, 0)

    def canonical(self, weight: Array) -> Array:
        """Bring a weight to (C, k, O)."""
        weight = weight.astype(np.float64)
        if self.window is None:
            return (weight.T if self.outputs_first else weight)[:, None]
        return weight.reshape(*weight.shape[:2], -1).transpose(1, 2, 0)

    def windows(self, data: Array) -> Array:
        """Cut what it reads into (N, P, C, k)."""
        data = data.astype(np.float64)
        if self.window is None:
            return data.reshape(len(data), -1, data.shape[-1])[..., None]
        return self.window.cut(data)


def sign_parts(weight: Array, windows: Array) -> Iterator[Array]:
    """Yield the sums of the products of one sign of weights and one of inputs, (N, P, O), unless no input has it.

    Args:
        weight: Weights (C, k, O).
        windows: Inputs (N, P, C, k).
    """
    n, p, c, k = windows.shape
    for a in (1, -1):
        part = np.maximum(a * windows, 0).reshape(n, p, c * k)
        if part.any():
            for w in (1, -1):
                yield part @ np.maximum(w * weight, 0).reshape(c * k, -1)


def part_errors(original: Array, changed: Sequence[tuple[Array, Array]], windows: Array) -> list[Array]:
    """Return the largest relative error that changed weights make in a sign part of the original, by input, (N,) each.

    Args:
        original: The original's weights, (C, k, O).
        changed: Weights (C, k, o) with the outputs of the original that they are of, (o,).
        windows: Inputs (N, P, C, k).
    """
    stacked = np.concatenate([original, *(weight for weight, _ in changed)], axis=-1)
    ends = np.cumsum([weight.shape[-1] for weight in (original, *(weight for weight, _ in changed))])[:-1]
    worst = np.zeros((len(changed), len(windows)))
    for sums in sign_parts(stacked, windows):
        z, *others = np.split(sums, ends, axis=-1)
        there = z > GUARD * z.max(initial=0.0)
        for number, (after, (_, outputs)) in enumerate(zip(others, changed, strict=True)):
            before, counts = z[..., outputs], there[..., outputs]
            error = np.divide(np.abs(before - after), before, out=np.zeros_like(before), where=counts)
            worst[number] = np.maximum(worst[number], error.max((1, 2), initial=0.0))
    return [*worst]
