"""The oracle's other side: the original with zeros where the removed channels are read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from onnxpfp.arrays import AnyArray, Keep
from onnxpfp.channels import ChannelGraph, Mask
from onnxpfp.model.edit import replace_nodes
from onnxpfp.model.shapes import Shapes

__all__ = ["factors", "masked", "masking"]


def masked(model: ModelProto, graph: ChannelGraph, keep: Keep, shapes: Shapes, left: Keep | None = None) -> ModelProto:
    """Put zeros where a channel that goes is read.

    That is the same as zeroing the consumers' weights of the channel, also where both operands are
    activations.

    Args:
        model: The original, with the same edits of weights as the pruned model.
        graph: Its channels.
        keep: Whether each channel stays.
        shapes: Shapes and types of its tensors.
        left: Which channels the model still has; None is all.
    """
    if left is not None:
        masks = (replace(mask, channels=mask.channels[left[mask.channels]]) for mask in graph.masks)
        graph = replace(graph, masks=tuple(masks))
    masks = [mask for mask in graph.masks if not keep[mask.channels].all()]
    out = masking(model, masks, shapes)
    read = {name for node in out.graph.node for name in node.input}
    arrays = factors(masks, keep, shapes).items()
    replace_nodes(out.graph, [*(_constant(name, array) for name, array in arrays if name in read), *out.graph.node])
    return out


def masking(model: ModelProto, masks: Sequence[Mask], shapes: Shapes) -> ModelProto:
    """Multiply what is read at some inputs by factors, which the model lacks: `factors` has them.

    Args:
        model: The original, or a part of it.
        masks: Inputs of its nodes.
        shapes: Shapes and types of its tensors.
    """
    out = ModelProto()
    out.CopyFrom(model)
    # Edits may have added or dropped nodes, so positions are those of this model.
    index = {name: position for position, node in enumerate(out.graph.node) for name in node.output if name}
    before: dict[int, list[NodeProto]] = {}
    made: dict[tuple[str, int, bytes], str] = {}
    for number, mask in enumerate(masks):
        node = index[mask.output]
        # A second axis of the same input is masked on top of the first.
        read = out.graph.node[node].input[mask.where]
        key = (read, mask.axis, mask.channels.tobytes())
        if key not in made:
            made[key] = _made(number)
            before.setdefault(node, []).extend(_zeroing(mask, read, made[key], shapes))
        out.graph.node[node].input[mask.where] = made[key]
    replace_nodes(out.graph, [n for i, node in enumerate(out.graph.node) for n in (*before.get(i, ()), node)])
    return out


def factors(masks: Sequence[Mask], keep: Keep, shapes: Shapes) -> dict[str, AnyArray]:
    """Return the factors that a model of `masking` reads, by name: ones and zeros, or booleans to choose by.

    Args:
        masks: The same masks; those that share a factor read the first one's.
        keep: Whether each channel stays.
        shapes: As in `masking`.
    """
    arrays: dict[str, AnyArray] = {}
    for number, mask in enumerate(masks):
        shape = [1] * len(shapes.shape[mask.tensor])
        shape[mask.axis] = mask.channels.size
        dtype = helper.tensor_dtype_to_np_dtype(shapes.dtype[mask.tensor])
        factor = np.asarray(keep[mask.channels].reshape(shape))
        arrays[_factor(_made(number))] = factor if dtype.kind in "iu" else factor.astype(dtype)
    return arrays


def _made(number: int) -> str:
    return f"onnxpfp_masked_{number}"


def _factor(made: str) -> str:
    return f"{made}_factor"


def _zeroing(mask: Mask, read: str, made: str, shapes: Shapes) -> list[NodeProto]:
    """Build the nodes that put zeros into `read`: a product, or a choice where the numbers are quantized."""
    element = shapes.dtype[mask.tensor]
    if helper.tensor_dtype_to_np_dtype(element).kind not in "iu":
        return [_node("Mul", [read, _factor(made)], made)]
    # onnxruntime has no Where of every small integer, so the choice is made in int32.
    zero = _constant(f"{made}_zero", np.zeros((), np.int32))
    if mask.zero:
        zero = _cast(mask.zero, f"{made}_zero", TensorProto.INT32)
    return [
        zero,
        _cast(read, f"{made}_wide", TensorProto.INT32),
        _node("Where", [_factor(made), f"{made}_wide", f"{made}_zero"], f"{made}_chosen"),
        _cast(f"{made}_chosen", made, element),
    ]


def _node(op: str, inputs: list[str], output: str) -> NodeProto:
    return helper.make_node(op, inputs, [output])


def _cast(name: str, output: str, element: int) -> NodeProto:
    return helper.make_node("Cast", [name], [output], to=element)


def _constant(name: str, array: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> NodeProto:
    return helper.make_node("Constant", [], [name], value=numpy_helper.from_array(array, name))
