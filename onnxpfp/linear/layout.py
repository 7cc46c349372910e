"""Layouts of the weights of linear ops, and the canonical one V (C, O/g, *kernel) in which everything else works.

| op | its weights | contracted axis |
|---|---|---|
| Conv | (O, C/g, *kernel) | 1 |
| ConvTranspose | (C, O/g, *kernel) | 0 |
| Gemm, MatMul | (C, O); with transB (O, C) | 0; 1 |

C are the indices of the contracted axis, O the outputs, g the convolution groups. V holds the weights from index c to
the outputs of its group.
"""

from __future__ import annotations

from typing import Protocol, Self, TypeVar

import numpy as np
from onnx import NodeProto

from onnxpfp.arrays import AnyArray, AnyFloats
from onnxpfp.channels.ops import facts_of
from onnxpfp.model.attributes import Attributes

__all__ = ["Layout", "as_stored", "canonical", "column", "contracted_axis", "filters", "output_axis"]


class Layout(Protocol):
    """Numbers whose axes can be moved: an array, or a tensor of a graph."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape."""
        ...

    def transpose(self, order: tuple[int, ...], /) -> Self:
        """Permute its axes."""
        ...

    def reshape(self, shape: tuple[int, ...], /) -> Self:
        """Give it another shape."""
        ...


L = TypeVar("L", bound=Layout)


def contracted_axis(node: NodeProto) -> int:
    """Return the axis of a linear op's weights that is contracted."""
    return int(facts_of(node).layout == "conv" or bool(Attributes(node).integer("transB", 0)))


def output_axis(rank: int, *, matrix: bool) -> int:
    """Return the axis of a linear op's output, of so many axes, that holds its output channels.

    Args:
        rank: Number of axes of the output.
        matrix: Whether the op multiplies by a matrix, on the right; else it is a convolution.
    """
    return rank - 1 if matrix else 1


def canonical(weight: L, *, conv: bool, group: int) -> L:
    """Bring weights to V (C, O/g, *kernel).

    Args:
        weight: Weights of a Conv, (O, C/g, *kernel), or of another op with the contracted axis in front.
        conv: Whether they are those of a Conv.
        group: Its convolution groups.
    """
    if not conv:
        return weight
    outputs, inputs, *kernel = weight.shape
    if group == 1:
        return weight.transpose((1, 0, *range(2, len(weight.shape))))
    grouped = weight.reshape((group, outputs // group, inputs, *kernel))
    grouped = grouped.transpose((0, 2, 1, *range(3, len(grouped.shape))))
    return grouped.reshape((group * inputs, outputs // group, *kernel))


def as_stored(taps: AnyFloats, node: NodeProto) -> AnyFloats:
    """Bring V (C, O/g, *kernel) back to the layout in which a linear op reads its weights: a view where possible."""
    layout = facts_of(node).layout
    if layout == "matrix":
        return taps.T if contracted_axis(node) else taps
    if layout == "conv_transpose":
        return taps
    group = Attributes(node).integer("group", 1)
    blocks = taps.reshape(group, len(taps) // group, *taps.shape[1:]).swapaxes(1, 2)
    return blocks.reshape(group * taps.shape[1], len(taps) // group, *taps.shape[2:])


def filters(weight: AnyFloats, node: NodeProto) -> AnyFloats:
    """Return the filters of a linear op, one per output along the first axis: a view of its weights where possible."""
    layout = facts_of(node).layout
    if layout == "conv":
        return weight
    if layout == "matrix":
        return weight if contracted_axis(node) else np.moveaxis(weight, -1, 0)
    group = Attributes(node).integer("group", 1)
    grouped = weight.reshape(group, -1, *weight.shape[1:])
    return np.moveaxis(grouped, 2, 1).reshape(group * weight.shape[1], grouped.shape[1], *weight.shape[2:])


def column(weight: AnyArray, axis: int, index: int, group: int) -> AnyArray:
    """Return the weights from one index of the contracted axis: a view.

    Args:
        weight: Weights as they are stored.
        axis: Their contracted axis.
        index: The index, 0 to C - 1.
        group: Convolution groups where these are the weights (O, C/g, *kernel) of a Conv, else 1: the index says the
            group, and so the outputs.
    """
    if group == 1:
        return np.moveaxis(weight, axis, 0)[index]
    block, within = divmod(index, weight.shape[1])
    outputs = len(weight) // group
    return weight[block * outputs : (block + 1) * outputs, within]
