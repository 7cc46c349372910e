"""The oracle's other side: the original with the removed channels' consumers reading zeros."""

from __future__ import annotations

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from onnxpfp.channels import ChannelGraph, Keep
from onnxpfp.model.shapes import Shapes

__all__ = ["masked"]


def masked(model: ModelProto, graph: ChannelGraph, keep: Keep, shapes: Shapes) -> ModelProto:
    """Multiply what every consumer reads by zero where a channel goes.

    That is the same as zeroing the consumers' weights of the channel, also where both operands are
    activations.

    Args:
        model: The original, with the same edits of weights as the pruned model.
        graph: Its channels.
        keep: Whether each channel stays.
        shapes: Shapes and types of its tensors.
    """
    out = ModelProto()
    out.CopyFrom(model)
    # Edits may have added or dropped nodes, so positions are those of this model.
    index = {node.output[0]: position for position, node in enumerate(out.graph.node) if node.output}
    before: dict[int, list[NodeProto]] = {}
    made: dict[tuple[str, int, bytes], str] = {}
    for number, consumer in enumerate(graph.consumers):
        stays = keep[consumer.channels]
        if stays.all():
            continue
        node = index[consumer.output]
        key = (consumer.data, consumer.data_axis, stays.tobytes())
        if key not in made:
            made[key] = f"onnxpfp_masked_{number}"
            mask = _mask(stays, shapes, consumer.data, consumer.data_axis, number)
            before.setdefault(node, []).extend(
                (
                    helper.make_node("Constant", [], [mask.name], value=mask),
                    helper.make_node("Mul", [consumer.data, mask.name], [made[key]]),
                )
            )
        out.graph.node[node].input[consumer.data_input] = made[key]
    nodes = [n for i, node in enumerate(out.graph.node) for n in (*before.get(i, ()), node)]
    copies = [_copy(node) for node in nodes]
    del out.graph.node[:]
    out.graph.node.extend(copies)
    return out


def _copy(node: NodeProto) -> NodeProto:
    copy = NodeProto()
    copy.CopyFrom(node)
    return copy


def _mask(stays: Keep, shapes: Shapes, data: str, axis: int, number: int) -> TensorProto:
    shape = [1] * len(shapes.shape[data])
    shape[axis] = stays.size
    dtype = helper.tensor_dtype_to_np_dtype(shapes.dtype[data])
    return numpy_helper.from_array(np.asarray(stays.reshape(shape)).astype(dtype), f"onnxpfp_mask_{number}")
