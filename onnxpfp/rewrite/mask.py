"""The oracle's other side: the original with zeros where the removed channels are read."""

from __future__ import annotations

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from onnxpfp.arrays import Keep
from onnxpfp.channels import ChannelGraph, Mask
from onnxpfp.model.shapes import Shapes

__all__ = ["masked"]


def masked(model: ModelProto, graph: ChannelGraph, keep: Keep, shapes: Shapes) -> ModelProto:
    """Put zeros where a channel that goes is read.

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
    index = {name: position for position, node in enumerate(out.graph.node) for name in node.output if name}
    before: dict[int, list[NodeProto]] = {}
    made: dict[tuple[str, int, bytes], str] = {}
    for number, mask in enumerate(graph.masks):
        stays = keep[mask.channels]
        if stays.all():
            continue
        node = index[mask.output]
        # A second axis of the same input is masked on top of the first.
        read = out.graph.node[node].input[mask.where]
        key = (read, mask.axis, stays.tobytes())
        if key not in made:
            made[key] = f"onnxpfp_masked_{number}"
            before.setdefault(node, []).extend(_zeroing(mask, read, made[key], stays, shapes))
        out.graph.node[node].input[mask.where] = made[key]
    nodes = [n for i, node in enumerate(out.graph.node) for n in (*before.get(i, ()), node)]
    copies = [_copy(node) for node in nodes]
    del out.graph.node[:]
    out.graph.node.extend(copies)
    return out


def _copy(node: NodeProto) -> NodeProto:
    copy = NodeProto()
    copy.CopyFrom(node)
    return copy


def _zeroing(mask: Mask, read: str, made: str, stays: Keep, shapes: Shapes) -> list[NodeProto]:
    """Build the nodes that put zeros into `read`: a product, or a choice where the numbers are quantized."""
    shape = [1] * len(shapes.shape[mask.tensor])
    shape[mask.axis] = stays.size
    factor = np.asarray(stays.reshape(shape))
    element = shapes.dtype[mask.tensor]
    dtype = helper.tensor_dtype_to_np_dtype(element)
    if dtype.kind not in "iu":
        return [_constant(f"{made}_factor", factor.astype(dtype)), _node("Mul", [read, f"{made}_factor"], made)]
    # onnxruntime has no Where of every small integer, so the choice is made in int32.
    zero = _constant(f"{made}_zero", np.zeros((), np.int32))
    if mask.zero:
        zero = _cast(mask.zero, f"{made}_zero", TensorProto.INT32)
    return [
        _constant(f"{made}_stays", factor),
        zero,
        _cast(read, f"{made}_wide", TensorProto.INT32),
        _node("Where", [f"{made}_stays", f"{made}_wide", f"{made}_zero"], f"{made}_chosen"),
        _cast(f"{made}_chosen", made, element),
    ]


def _node(op: str, inputs: list[str], output: str) -> NodeProto:
    return helper.make_node(op, inputs, [output])


def _cast(name: str, output: str, element: int) -> NodeProto:
    return helper.make_node("Cast", [name], [output], to=element)


def _constant(name: str, array: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> NodeProto:
    return helper.make_node("Constant", [], [name], value=numpy_helper.from_array(array, name))
