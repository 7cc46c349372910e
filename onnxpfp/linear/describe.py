"""From the consumers of the channel graph to the linear ops that the probe measures."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import fields
from functools import partial

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto

from onnxpfp.channels import Analysis, Consumer
from onnxpfp.channels.ops import facts_of
from onnxpfp.linear.layout import contracted_axis
from onnxpfp.linear.ops import FileWeight, HeldWeight, LinearOp, Window
from onnxpfp.model.attributes import Attributes
from onnxpfp.model.constants import Constants
from onnxpfp.model.shapes import Shapes

__all__ = ["constant_consumer", "linear_op", "linear_ops", "op_key"]

EXTERNAL_FROM = 1 << 18
"""Numbers; smaller weights are read into memory, wherever they come from, and stay there."""


def op_key(position: int) -> str:
    """Return the key of a consumer's statistics."""
    return f"consumer {position}"


def linear_ops(analysis: Analysis) -> tuple[LinearOp, ...]:
    """Describe every consumer of a model, in the graph's order."""
    consumers = enumerate(analysis.graph.consumers)
    return tuple(linear_op(op_key(position), consumer, analysis) for position, consumer in consumers)


def constant_consumer(index: int, analysis: Analysis) -> Consumer | None:
    """Describe a linear op with constant weights that contracts no channels that could go; None where it is none.

    Args:
        index: Position of its node.
        analysis: The model.
    """
    node = analysis.model.graph.node[index]
    graph, constants = analysis.graph, analysis.constants
    facts = facts_of(node)
    form = facts.layout
    if form is None or not facts.linear or node.input[1] not in constants.names:
        return None
    data, weight = node.input[0], node.input[1]
    if data in constants.names or data not in graph.axes or weight not in graph.axes:
        return None
    last = len(analysis.shapes.shape[data]) - 1
    data_axis = 1 if form != "matrix" else (0 if Attributes(node).integer("transA", 0) else last)
    return Consumer(
        node=index,
        name=node.name or node.output[0],
        output=node.output[0],
        op=node.op_type,
        data=data,
        data_input=0,
        data_axis=data_axis,
        channels=graph.axes[data][data_axis],
        weight=weight,
        weight_axis=contracted_axis(node),
        constant=True,
        form=form,
    )


def linear_op(name: str, c: Consumer, analysis: Analysis) -> LinearOp:
    """Describe one consumer under that name."""
    shapes, constants = analysis.shapes, analysis.constants
    node = analysis.model.graph.node[c.node]
    read = partial(
        LinearOp,
        name=name,
        data=c.data,
        data_shape=shapes.shape[c.data],
        axis=c.data_axis,
        channels=c.channels,
        output_shape=shapes.shape[c.output],
    )
    match c.form:
        case "conv" | "conv_transpose":
            options = Attributes(node)
            return read(
                kind=c.form,
                weight=_in_memory_or_external(c, shapes, constants, partial(_weight, c, constants)),
                group=options.integer("group", 1),
                attributes=Window.of(options.window([item.name for item in fields(Window)])),
                zero=c.zeros[0],
            )
        case "matrix" | "packed":
            unpack = partial(_unpacked, node, c, constants) if c.form == "packed" else partial(_rows, c, constants)
            weight = _in_memory_or_external(c, shapes, constants, unpack)
            outer = [size for axis, size in enumerate(shapes.shape[c.data]) if axis != c.data_axis]
            return read(kind="matmul", weight=weight, output_shape=(*outer, weight.shape[1]), zero=c.zeros[0])
        case "product":
            return read(
                kind="product",
                weight=None,
                other=c.weight,
                other_shape=shapes.shape[c.weight],
                data_on_right=c.data_input != 0,
                zero=c.zeros[0],
                other_zero=c.zeros[1],
            )
        case "einsum":
            return read(
                kind="einsum",
                weight=None,
                other=c.weight,
                other_shape=shapes.shape[c.weight],
                equation=c.equation,
                output_shape=_einsum_shape(c, shapes),
            )


def _in_memory_or_external(
    c: Consumer, shapes: Shapes, constants: Constants, read: Callable[[], NDArray[np.floating]]
) -> NDArray[np.float32] | HeldWeight | FileWeight:
    """Return a weight in float32, or where it can be read."""
    stored = shapes.shape[c.weight]

    def single() -> NDArray[np.float32]:
        return np.ascontiguousarray(read(), dtype=np.float32)

    plain = c.form != "packed" and not c.zeros[1]
    rest = tuple(axis for axis in range(len(stored)) if axis != c.weight_axis)
    shape = (stored[c.weight_axis], math.prod(stored[axis] for axis in rest)) if c.form == "matrix" else stored
    if math.prod(stored) < EXTERNAL_FROM:
        return single()
    if c.weight not in constants.apart:
        return HeldWeight(shape, single) if plain and c.weight in constants.stored else single()
    if not plain:
        return FileWeight(read().shape, read)
    if c.form != "matrix":
        return FileWeight(stored, read, c.weight, stored, tuple(range(len(stored))))
    return FileWeight(shape, read, c.weight, stored, (c.weight_axis, *rest))


def _weight(c: Consumer, constants: Constants) -> NDArray[np.floating]:
    """Return the weight, minus its zero point: one number, or one per output."""
    weight = constants.value(c.weight)
    if not c.zeros[1]:
        return weight
    weight = np.asarray(weight, dtype=np.float32)
    zero = np.asarray(constants.value(c.zeros[1]), dtype=np.float32)
    if zero.size > 1:
        outputs = weight.ndim - 1 if c.form == "matrix" and c.weight_axis != weight.ndim - 1 else 0
        zero = np.moveaxis(zero.reshape(-1, *([1] * (weight.ndim - 1))), 0, outputs)
    return weight - zero


def _rows(c: Consumer, constants: Constants) -> NDArray[np.floating]:
    """Return the weight of a matrix product, (C, O)."""
    return np.moveaxis(_weight(c, constants), c.weight_axis, 0).reshape(len(c.channels), -1)


def _unpacked(packed: NodeProto, c: Consumer, constants: Constants) -> NDArray[np.floating]:
    """Let the op unpack its weight: what it makes of the identity, (C, O)."""
    node = NodeProto()
    node.CopyFrom(packed)
    bias = facts_of(node).bias
    for position in range(len(node.input) if bias is None else bias.position, len(node.input)):
        node.input[position] = ""
    return constants.apply(node, {node.input[c.data_input]: np.eye(len(c.channels), dtype=np.float32)})


def _einsum_shape(c: Consumer, shapes: Shapes) -> tuple[int, ...]:
    terms, out = c.equation.split("->")
    sizes: dict[str, int] = {}
    for term, tensor in zip(terms.split(","), (c.data, c.weight), strict=True):
        for letter, size in zip(term, shapes.shape[tensor], strict=True):
            sizes[letter] = max(size, sizes.get(letter, 1))
    return tuple(sizes[letter] for letter in out)
