"""Rewrite channel shuffles and equal Splits, which tie channels only by their form, so that each channel can go alone.

    Channel shuffle   Reshape to (g, C/g), Transpose, Reshape back becomes one Gather. The rectangle of channels stays a
                      rectangle only if whole columns go, which ties g channels to each other, and through the units of
                      a ShuffleNet ever more of them; a permutation ties none.
    Equal Split       A Split without sizes gets its sizes written out. Equal parts must stay equal, which ties channel
                      i of every part; parts with sizes may differ.

Only nodes whose axis has channels are rewritten. The model computes the same.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper

from onnxpfp.channels import ChannelGraph
from onnxpfp.model.attributes import Attributes
from onnxpfp.model.edit import add_constants, drop_nodes, drop_unread, forget_shapes
from onnxpfp.model.index import ModelIndex
from onnxpfp.model.opset import standard_opset
from onnxpfp.model.shapes import Shapes

__all__ = ["decouple_shuffles"]

SIZES_AS_INPUT = 13
"""First opset in which the sizes of a Split are an input."""


@dataclass(frozen=True, slots=True)
class _Shuffle:
    """Three nodes that permute an axis.

    Attributes:
        nodes: Positions of Reshape, Transpose and Reshape.
        axis: The axis.
        order: Index of the input at every place of the output, (C,).
    """

    nodes: tuple[int, int, int]
    axis: int
    order: tuple[int, ...]


def decouple_shuffles(model: ModelProto, graph: ChannelGraph, shapes: Shapes) -> ModelProto | None:
    """Rewrite shuffles and splits on axes with channels.

    Args:
        model: The model; it is not changed.
        graph: Its channels.
        shapes: Shapes of its tensors.

    Returns:
        A model that computes the same with fewer ties; None where there is nothing to rewrite.
    """
    shuffles = _shuffles(model, graph, shapes)
    splits = [i for i, node in enumerate(model.graph.node) if _is_even_split(node, graph)]
    if not shuffles and not splits:
        return None
    loose = ModelProto()
    loose.CopyFrom(model)
    for index in splits:
        _write_sizes(loose, index, shapes)
    for shuffle in shuffles:
        _permute(loose, shuffle)
    touched = [
        name for shuffle in shuffles for index in shuffle.nodes[::2] for name in model.graph.node[index].input[1:]
    ]
    dropped = {index for shuffle in shuffles for index in shuffle.nodes[:2]}
    stale = {name for index in dropped for name in loose.graph.node[index].output}
    drop_nodes(loose.graph, dropped)
    drop_unread(loose.graph, touched)
    forget_shapes(loose.graph, stale)
    _add_numbers(loose, shuffles, splits, model, shapes)
    return loose


def _is_even_split(node: NodeProto, graph: ChannelGraph) -> bool:
    if node.op_type != "Split" or node.domain or len(node.output) == 1:
        return False
    given = len(node.input) > 1 and node.input[1]
    axes = graph.axes.get(node.input[0], ())
    axis = Attributes(node).integer("axis", 0)
    return not given and "split" not in Attributes(node) and bool(axes) and bool(axes[axis].any())


def _sizes_name(node: NodeProto) -> str:
    return f"{node.output[0]}_sizes"


def _order_name(node: NodeProto) -> str:
    return f"{node.output[0]}_order"


def _lengths(node: NodeProto, shapes: Shapes) -> list[int]:
    axis = Attributes(node).integer("axis", 0)
    return [shapes.shape[name][axis] for name in node.output]


def _write_sizes(model: ModelProto, index: int, shapes: Shapes) -> None:
    node = model.graph.node[index]
    if standard_opset(model) < SIZES_AS_INPUT:
        node.attribute.append(helper.make_attribute("split", _lengths(node, shapes)))
        return
    for attribute in [attribute for attribute in node.attribute if attribute.name == "num_outputs"]:
        node.attribute.remove(attribute)
    del node.input[1:]
    node.input.append(_sizes_name(node))


def _permute(model: ModelProto, shuffle: _Shuffle) -> None:
    """Let the last node of a shuffle pick the channels in their new order."""
    first, last = (model.graph.node[index] for index in shuffle.nodes[::2])
    gather = helper.make_node(
        "Gather", [first.input[0], _order_name(last)], list(last.output), name=last.name, axis=shuffle.axis
    )
    last.CopyFrom(gather)


def _add_numbers(
    loose: ModelProto, shuffles: list[_Shuffle], splits: list[int], model: ModelProto, shapes: Shapes
) -> None:
    orders = [(_order_name(model.graph.node[s.nodes[2]]), s.order) for s in shuffles]
    sizes = [(_sizes_name(model.graph.node[i]), _lengths(model.graph.node[i], shapes)) for i in splits]
    if standard_opset(model) < SIZES_AS_INPUT:
        sizes = []
    # Listed, such small numbers take a byte or two each, and eight as raw data.
    tensors = [
        helper.make_tensor(name, TensorProto.INT64, [len(numbers)], numbers) for name, numbers in (*orders, *sizes)
    ]
    add_constants(loose, tensors)


def _shuffles(model: ModelProto, graph: ChannelGraph, shapes: Shapes) -> list[_Shuffle]:
    """Find Reshape, Transpose, Reshape that only permute an axis with channels."""
    model_index = ModelIndex.of(model)
    shuffles: list[_Shuffle] = []
    for index, node in enumerate(model.graph.node):
        if node.op_type != "Reshape" or not any(ids.any() for ids in graph.axes.get(node.input[0], ())):
            continue
        chain = [index]
        for op_type in ("Transpose", "Reshape"):
            use = model_index.only_use(model.graph.node[chain[-1]].output[0])
            if use is None or model.graph.node[use[0]].op_type != op_type:
                break
            chain.append(use[0])
        else:
            shuffle = _as_permutation(model, (chain[0], chain[1], chain[2]), shapes)
            if shuffle is not None and graph.axes[node.input[0]][shuffle.axis].any():
                shuffles.append(shuffle)
    return shuffles


def _as_permutation(model: ModelProto, nodes: tuple[int, int, int], shapes: Shapes) -> _Shuffle | None:
    """Read three nodes as a permutation of one axis, or None where they do more."""
    first, middle, last = (model.graph.node[index] for index in nodes)
    before, inside = shapes.shape[first.input[0]], shapes.shape[first.output[0]]
    width = len(inside) - len(before) + 1
    if width < 2 or before != shapes.shape[last.output[0]]:
        return None
    perm = Attributes(middle).integers("perm") or list(range(len(inside)))[::-1]
    moved = [axis for axis, source in enumerate(perm) if axis != source]
    axis = moved[0] if moved else 0
    run = range(axis, axis + width)
    whole = before[:axis] == inside[:axis] and before[axis + 1 :] == inside[axis + width :]
    if not whole or any(place not in run for place in moved):
        return None
    local = [perm[place] - axis for place in run]
    order = np.arange(before[axis]).reshape([inside[place] for place in run]).transpose(local).ravel()
    return _Shuffle(nodes, axis, tuple(order.tolist()))
