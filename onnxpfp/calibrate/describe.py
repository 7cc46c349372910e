"""From the consumers of the channel graph to the readers that the probe measures."""

from __future__ import annotations

from dataclasses import fields
from functools import partial

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto

from onnxpfp.calibrate.reader import Reader, Window
from onnxpfp.channels import ChannelGraph, Consumer
from onnxpfp.model.attributes import Attributes
from onnxpfp.model.constants import Constants
from onnxpfp.model.shapes import Shapes

__all__ = ["describe", "reader_name"]

BIAS_OF_PACKED = {"MatMulNBits": 5}
"""Input of a packed product that is added to it."""


def reader_name(position: int) -> str:
    """Return the key of a consumer's statistics."""
    return f"consumer {position}"


def describe(model: ModelProto, graph: ChannelGraph, shapes: Shapes, constants: Constants) -> tuple[Reader, ...]:
    """Describe every consumer as a reader, in the graph's order.

    Args:
        model: The model.
        graph: Its channels.
        shapes: Shapes of its tensors.
        constants: Its constants; the weights are taken from here.
    """
    return tuple(
        _reader(reader_name(position), model, consumer, shapes, constants)
        for position, consumer in enumerate(graph.consumers)
    )


def _reader(name: str, model: ModelProto, c: Consumer, shapes: Shapes, constants: Constants) -> Reader:
    node = model.graph.node[c.node]
    read = partial(
        Reader,
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
                weight=_weight(c, constants),
                group=options.integer("group", 1),
                attributes=Window.of(options.window([item.name for item in fields(Window)])),
                zero=c.zeros[0],
            )
        case "matrix" | "packed":
            weight = _unpacked(model, c, constants) if c.form == "packed" else _weight(c, constants)
            rows = np.moveaxis(weight, c.weight_axis, 0).reshape(len(c.channels), -1)
            outer = [size for axis, size in enumerate(shapes.shape[c.data]) if axis != c.data_axis]
            return read(
                kind="matmul",
                weight=np.ascontiguousarray(rows),
                output_shape=(*outer, rows.shape[1]),
                zero=c.zeros[0],
            )
        case "product":
            other = shapes.shape[c.weight]
            return read(kind="product", weight=None, other=c.weight, other_shape=other, data_on_right=c.data_input == 1)
        case "einsum":
            return read(
                kind="einsum",
                weight=None,
                other=c.weight,
                other_shape=shapes.shape[c.weight],
                equation=c.equation,
                output_shape=_einsum_shape(c, shapes),
            )


def _weight(c: Consumer, constants: Constants) -> NDArray[np.float32]:
    """Return the weight in float32, minus its zero point: one number, or one per output."""
    weight = np.asarray(constants.value(c.weight), dtype=np.float32)
    if not c.zeros[1]:
        return weight
    zero = np.asarray(constants.value(c.zeros[1]), dtype=np.float32)
    if zero.size > 1 and c.form != "matrix":
        zero = zero.reshape(-1, *([1] * (weight.ndim - 1)))
    return weight - zero


def _unpacked(model: ModelProto, c: Consumer, constants: Constants) -> NDArray[np.float32]:
    """Let the op unpack its weight: what it makes of the identity, (C, O)."""
    node = NodeProto()
    node.CopyFrom(model.graph.node[c.node])
    bias = BIAS_OF_PACKED.get(node.op_type, len(node.input))
    for position in range(bias, len(node.input)):
        node.input[position] = ""
    return constants.apply(node, c.data_input, np.eye(len(c.channels), dtype=np.float32))


def _einsum_shape(c: Consumer, shapes: Shapes) -> tuple[int, ...]:
    terms, out = c.equation.split("->")
    sizes: dict[str, int] = {}
    for term, tensor in zip(terms.split(","), (c.data, c.weight), strict=True):
        for letter, size in zip(term, shapes.shape[tensor], strict=True):
            sizes[letter] = max(size, sizes.get(letter, 1))
    return tuple(sizes[letter] for letter in out)
