"""Attention heads: the axis that two activations' product treats as a batch is the unit of pruning."""

from __future__ import annotations

import math

from onnx import ModelProto, NodeProto

from onnxpfp.channels.context import Carrier
from onnxpfp.channels.ops.reshaping import blocks
from onnxpfp.model.attributes import Attributes
from onnxpfp.model.constants import Constants
from onnxpfp.model.shapes import Shapes

__all__ = ["head_axes"]

_SAME_AXES = frozenset(
    {"Add", "Cast", "Clip", "Div", "Identity", "Mul", "RMSNormalization", "LayerNormalization"}
    | {"Softmax", "Sub", "Where", "Split", "Slice", "Concat", "Neg", "Relu", "Expand"}
)


_RENAMING = frozenset({"Reshape", "Squeeze", "Unsqueeze", "Flatten"})


def head_axes(model: ModelProto, shapes: Shapes, constants: Constants) -> dict[int, frozenset[Carrier]]:
    """Find for each Reshape the output axes that become batch axes of an activation product.

    Args:
        model: The model.
        shapes: Concrete shapes.
        constants: Its constants.

    Returns:
        Output axes by position of the Reshape node.
    """
    producer = {name: (index, node) for index, node in enumerate(model.graph.node) for name in node.output if name}
    found: dict[int, set[int]] = {}
    for node in model.graph.node:
        if node.op_type != "MatMul" or constants.names.intersection(node.input):
            continue
        for name in node.input:
            rank = len(shapes.shape.get(name, ()))
            for axis in range(rank - 2):
                _trace(producer, shapes, name, axis, found)
    return {index: frozenset(("out", axis) for axis in axes) for index, axes in found.items()}


def _trace(
    producer: dict[str, tuple[int, NodeProto]],
    shapes: Shapes,
    name: str,
    axis: int,
    found: dict[int, set[int]],
) -> None:
    """Follow one axis of a tensor back to the Reshape nodes that made it."""
    seen: set[tuple[str, int]] = set()
    stack = [(name, axis)]
    while stack:
        here = stack.pop()
        if here in seen or here[0] not in producer:
            continue
        seen.add(here)
        index, node = producer[here[0]]
        if node.op_type == "Reshape":
            found.setdefault(index, set()).add(here[1])
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
        return [(first, own) for own in _unchanged(shapes.shape[first], shapes.shape[node.output[0]], axis)]
    if node.op_type == "MatMul" and axis < len(shapes.shape[node.output[0]]) - 2:
        return [(name, axis) for name in node.input]
    if node.op_type in _SAME_AXES:
        rank = len(shapes.shape.get(node.output[0], ()))
        return [(name, axis) for name in node.input if len(shapes.shape.get(name, ())) == rank]
    return []


def _unchanged(before: tuple[int, ...], after: tuple[int, ...], axis: int) -> list[int]:
    """Find the axis that a Reshape leaves as it is; none where it is split or merged."""
    if math.prod(before) != math.prod(after) or 0 in before:
        return []
    run = next(left for left, right in blocks(before, after) if axis in right)
    real = [own for own in run if before[own] > 1]
    return real if len(real) == 1 and before[real[0]] == after[axis] else []
