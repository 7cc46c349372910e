"""From the consumers of the channel graph to the readers that the probe measures."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
from onnx import ModelProto

from onnxpfp.calibrate.reader import Reader, Window
from onnxpfp.channels import ChannelGraph, Consumer
from onnxpfp.model.attributes import Attributes
from onnxpfp.model.constants import Constants
from onnxpfp.model.shapes import Shapes

__all__ = ["describe", "reader_name"]


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
    options = Attributes(node)
    output_shape = shapes.shape[node.output[0]]
    if not c.constant:
        return _product(name, c, shapes, output_shape)
    weight = np.asarray(constants.value(c.weight), dtype=np.float32)
    if c.op in {"Conv", "ConvTranspose"}:
        return Reader(
            name=name,
            kind="conv" if c.op == "Conv" else "conv_transpose",
            data=c.data,
            data_shape=shapes.shape[c.data],
            axis=c.data_axis,
            channels=c.channels,
            weight=weight,
            output_shape=output_shape,
            group=options.integer("group", 1),
            attributes=Window.of(options.window([item.name for item in fields(Window)])),
        )
    if weight.ndim > 2:
        # A stack of matrices: the other operand is an activation only in its values.
        return _product(name, c, shapes, output_shape)
    matrix = weight.reshape(weight.shape[0], -1) if weight.ndim == 1 else weight
    return Reader(
        name=name,
        kind="matmul",
        data=c.data,
        data_shape=shapes.shape[c.data],
        axis=c.data_axis,
        channels=c.channels,
        weight=np.ascontiguousarray(np.moveaxis(matrix, c.weight_axis, 0)),
        output_shape=output_shape,
    )


def _product(name: str, c: Consumer, shapes: Shapes, output_shape: tuple[int, ...]) -> Reader:
    return Reader(
        name=name,
        kind="product",
        data=c.data,
        data_shape=shapes.shape[c.data],
        axis=c.data_axis,
        channels=c.channels,
        weight=None,
        output_shape=output_shape,
        other=c.weight,
        other_shape=shapes.shape[c.weight],
        data_on_right=c.data_input == 1,
    )
