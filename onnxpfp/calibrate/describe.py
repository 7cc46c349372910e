"""From the consumers of the channel graph to the readers that the probe measures."""

from __future__ import annotations

from dataclasses import fields
from functools import partial

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
    read = partial(
        Reader,
        name=name,
        data=c.data,
        data_shape=shapes.shape[c.data],
        axis=c.data_axis,
        channels=c.channels,
        output_shape=shapes.shape[node.output[0]],
    )
    weight = np.asarray(constants.value(c.weight), dtype=np.float32) if c.constant else None
    if weight is not None and c.op in {"Conv", "ConvTranspose"}:
        options = Attributes(node)
        return read(
            kind="conv" if c.op == "Conv" else "conv_transpose",
            weight=weight,
            group=options.integer("group", 1),
            attributes=Window.of(options.window([item.name for item in fields(Window)])),
        )
    if weight is not None and weight.ndim <= 2:
        matrix = weight.reshape(weight.shape[0], -1) if weight.ndim == 1 else weight
        return read(kind="matmul", weight=np.ascontiguousarray(np.moveaxis(matrix, c.weight_axis, 0)))
    # Two activations, or a stack of matrices, which is an activation in all but its values.
    shape = shapes.shape[c.weight]
    return read(kind="product", weight=None, other=c.weight, other_shape=shape, data_on_right=c.data_input == 1)
