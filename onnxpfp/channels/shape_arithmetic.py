"""Shape arithmetic: nodes that compute with shapes, folded into symbolic values."""

from __future__ import annotations

import math
from collections.abc import Mapping, MutableMapping

import numpy as np
from onnx import NodeProto, TensorProto

from onnxpfp.arrays import Ids
from onnxpfp.channels import symbolic as entries
from onnxpfp.channels.context import Axes
from onnxpfp.channels.symbolic import Const, Dim, Value
from onnxpfp.channels.walk_input import WalkInput, domain_of
from onnxpfp.model.attributes import Attributes
from onnxpfp.model.constants import INTEGERS

__all__ = ["fold_node"]

FEW = 16
"""Numbers; a longer tensor of floats is no shape arithmetic."""
MANY = 1024
"""Numbers; a computation on more is that of a table, not of a shape."""


def fold_node(
    walk_input: WalkInput, node: NodeProto, values: MutableMapping[str, Value], axes: Mapping[str, Axes]
) -> Value | None:
    """Follow shape arithmetic through a node; None where the node is anything else.

    Args:
        walk_input: The model.
        node: The node.
        values: Entries of what came before; floats with which lengths are computed are added.
        axes: Labels of what came before.
    """
    if domain_of(node) or not node.output or not node.output[0]:
        return None
    if node.op_type in {"Shape", "Size"}:
        return _lengths(walk_input, node, values, axes)
    return _computed(walk_input, node, values)


def _computed(walk_input: WalkInput, node: NodeProto, values: MutableMapping[str, Value]) -> Value | None:
    """Compute on numbers that are known: whole ones, and floats that come from whole ones."""
    name, inputs = node.output[0], [i for i in node.input if i]
    if len(node.output) != 1:
        return None
    integer = walk_input.shapes.dtype.get(name) in INTEGERS
    if node.op_type == "Constant":
        array = walk_input.constants.value(name) if integer else None
        return entries.constant(name, array) if array is not None and array.size <= entries.LARGEST else None
    before = [values[i] for i in inputs if i in values and i not in walk_input.stored_shapes]
    if not integer and not any(map(entries.is_real, before)) and not (before and node.op_type == "Cast"):
        return None
    operands = [values.get(i) if i in values else _small_floats(walk_input, i, values) for i in inputs]
    known = [value for value in operands if value is not None]
    if not known or len(known) < len(operands):
        return None
    if node.op_type == "Clip":
        bounds = [values[i] if i else None for i in (*node.input[1:], "", "")]
        return entries.clip(known[0], *bounds[:2])
    if max(value.size for value in known) > (FEW if any(map(entries.is_real, known)) else MANY):
        return None
    return entries.fold(node.op_type, known, Attributes(node))


def _small_floats(walk_input: WalkInput, name: str, values: MutableMapping[str, Value]) -> Value | None:
    """Entries of a constant with which shape arithmetic in floats computes."""
    tensor = walk_input.constants.stored.get(name)
    floats = {TensorProto.FLOAT, TensorProto.DOUBLE}
    if tensor is None or math.prod(tensor.dims) > FEW or tensor.data_type not in floats:
        return None
    return values.setdefault(name, entries.constant("", walk_input.constants.value(name)))


def _lengths(
    walk_input: WalkInput, node: NodeProto, values: Mapping[str, Value], axes: Mapping[str, Axes]
) -> Value | None:
    """Shape and Size."""
    tensor = node.input[0]
    if tensor not in axes:
        return None
    constant = tensor in walk_input.constants.names or tensor in values
    out = np.empty(len(axes[tensor]), object)
    for axis, labels in enumerate(axes[tensor]):
        if constant and not labels.any():
            out[axis] = Const("", 0, labels.size)
        else:
            known = constant or tensor in walk_input.settled or _is_static(labels)
            out[axis] = Dim(tensor, axis, labels.size, constant, known)
    if node.op_type == "Size":
        return entries.product(out)
    given = Attributes(node)
    return out[given.integer("start", 0) : given.integer("end", len(out))]


def _is_static(labels: Ids) -> bool:
    """Whether every index comes from another index of a weight: then there are always as many.

    Not so for one index: an axis of length 1 stretches over a free one, which may be 1 here and longer elsewhere.
    """
    return bool(labels.size > 1 and labels.all() and np.unique(labels).size == labels.size)
