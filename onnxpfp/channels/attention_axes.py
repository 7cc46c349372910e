"""Attention: what a Reshape into (heads, width) leaves to choose from, heads or the width that they all share.

Heads lie on the axis that a product of two activations treats as a batch, their width on those that it multiplies.
Where all heads share one head of keys and values, none of them could go with what it reads: the width goes always.
"""

from __future__ import annotations

import math
from typing import Literal

from onnx import ModelProto, NodeProto

from onnxpfp.channels.context import Carrier
from onnxpfp.channels.ops import facts_of
from onnxpfp.channels.ops.reshaping import blocks
from onnxpfp.model.attributes import Attributes
from onnxpfp.model.constants import Constants
from onnxpfp.model.shapes import Shapes

__all__ = ["Unit", "head_axes"]

Unit = Literal["heads", "width"]
"""The unit that is removed from an attention: whole heads, or the same part of every head."""

_SAME_AXES = frozenset(
    {"Add", "Cast", "Clip", "Div", "Identity", "Mul", "RMSNormalization", "LayerNormalization"}
    | {"Softmax", "Sub", "Where", "Split", "Slice", "Concat", "Neg", "Relu", "Expand"}
    | {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "QLinearAdd", "QLinearMul", "QLinearSoftmax"}
    | {"RotaryEmbedding"}
)
_RENAMING = frozenset({"Reshape", "Squeeze", "Unsqueeze", "Flatten"})


def head_axes(model: ModelProto, shapes: Shapes, constants: Constants, unit: Unit) -> dict[int, frozenset[Carrier]]:
    """Find for each Reshape the output axes that become batch axes of a product of activations, or inner ones.

    Args:
        model: The model.
        shapes: Concrete shapes.
        constants: Its constants.
        unit: Whether heads (batch axes) are wanted, or their width.

    Returns:
        Output axes by position of the Reshape node.
    """
    producer = {name: (index, node) for index, node in enumerate(model.graph.node) for name in node.output if name}
    axes: dict[int, set[int]] = {}
    for node in model.graph.node:
        operands = [node.input[position] for position in facts_of(node).operands or ()]
        if constants.names.intersection(operands):
            continue
        whole = unit == "heads" and not _share_one_head([shapes.shape.get(name, ()) for name in operands])
        for position, name in enumerate(operands):
            rank = len(shapes.shape.get(name, ()))
            # The right operand of attention times values brings forth the width.
            inner = range(rank - 1, rank) if position == 0 else range(max(rank - 2, 0), rank)
            for axis in range(rank - 2) if whole else inner:
                _trace(producer, shapes, name, axis, axes)
    return {index: frozenset(("out", axis) for axis in axes) for index, axes in axes.items()}


def _share_one_head(operands: list[tuple[int, ...]]) -> bool:
    """Tell whether one operand has a single head for all heads of the other; the first axis is that of the samples."""
    pairs = list(zip(*(shape[1:-2] for shape in operands), strict=False))
    return any(1 in pair and max(pair) > 1 for pair in pairs) and not any(min(pair) > 1 for pair in pairs)


def _trace(
    producer: dict[str, tuple[int, NodeProto]],
    shapes: Shapes,
    name: str,
    axis: int,
    axes: dict[int, set[int]],
) -> None:
    """Follow one axis of a tensor back to the Reshape nodes that made it."""
    visited: set[tuple[str, int]] = set()
    stack = [(name, axis)]
    while stack:
        here = stack.pop()
        if here in visited or here[0] not in producer:
            continue
        visited.add(here)
        index, node = producer[here[0]]
        if node.op_type == "Reshape":
            axes.setdefault(index, set()).add(here[1])
        stack += _back(node, shapes, here[1])


def _back(node: NodeProto, shapes: Shapes, axis: int) -> list[tuple[str, int]]:
    """Return the axes of a node's inputs that become `axis` of its output."""
    options = Attributes(node)
    first = node.input[0] if node.input else ""
    if node.op_type == "Transpose":
        rank = len(shapes.shape[first])
        perm = options.integers("perm") or list(range(rank - 1, -1, -1))
        return [(first, perm[axis])]
    if node.op_type == "Gather" and len(shapes.shape.get(node.input[1], (0,))) == 0:
        picked = options.integer("axis", 0)
        return [(first, axis + (axis >= picked))]
    if node.op_type in _RENAMING:
        return [(first, before) for before in _unchanged(shapes.shape[first], shapes.shape[node.output[0]], axis)]
    operands = facts_of(node).operands
    if operands and axis < len(shapes.shape[node.output[0]]) - 2:
        return [(node.input[position], axis) for position in operands]
    if node.op_type in _SAME_AXES:
        rank = len(shapes.shape.get(node.output[0], ()))
        return [(name, axis) for name in node.input if len(shapes.shape.get(name, ())) == rank]
    return []


def _unchanged(before: tuple[int, ...], after: tuple[int, ...], axis: int) -> list[int]:
    """Find the axes that a Reshape leaves or merges (keys that several queries share); none if it splits."""
    if math.prod(before) != math.prod(after) or 0 in before:
        return []
    left, right = next((left, right) for left, right in blocks(before, after) if axis in right)
    split = [other for other in right if after[other] > 1] != [axis]
    return [] if split else [source for source in left if before[source] > 1]
