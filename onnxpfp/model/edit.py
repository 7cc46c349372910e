"""Small edits of a graph that several stages make: constants come, nodes that nothing reads go."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Container, Iterable, MutableSequence, Sequence
from typing import Any

from onnx import FunctionProto, GraphProto, ModelProto, NodeProto, TensorProto, helper

from onnxpfp.model.constants import all_graphs, reader_counts

__all__ = [
    "GIVEN",
    "INITIALIZERS_ARE_FREE",
    "add_constants",
    "copy_for_inference",
    "copy_graph_without",
    "copy_model_around",
    "drop_initializers",
    "drop_nodes",
    "drop_unread",
    "forget_records",
    "forget_shapes",
    "replace_nodes",
]

GIVEN = "onnxpfp_given_"
"""Prefix of the inputs that a copy of a model has beside its own, for numbers that it takes from another."""
INITIALIZERS_ARE_FREE = 4
"""First IR version in which an initializer need not be an input."""
SMALL = 1 << 14
"""Numbers of a stored tensor that inference sees; no shape is computed from larger ones."""


def add_constants(model: ModelProto, tensors: Sequence[TensorProto]) -> None:
    """Add constants: as initializers, or as nodes where those must be inputs (IR 3)."""
    if model.ir_version >= INITIALIZERS_ARE_FREE:
        model.graph.initializer.extend(tensors)
        return
    nodes = [helper.make_node("Constant", [], [tensor.name], value=tensor) for tensor in tensors]
    replace_nodes(model.graph, [*nodes, *model.graph.node])


def copy_graph_without(graph: GraphProto, fields: Container[str]) -> GraphProto:
    """Copy a graph without some of its fields, which are not even read."""
    copy = GraphProto()
    _copy_fields(graph, copy, fields)
    return copy


def copy_for_inference(graph: GraphProto) -> GraphProto:
    """Copy a graph for shape inference, which copies it several times: without large weights, and without records.

    Inputs stand in the place of these weights: no shape needs their numbers.
    """
    copy = copy_graph_without(graph, {"initializer", "value_info"})
    listed = {info.name: info for info in copy.input}
    for tensor in graph.initializer:
        if math.prod(tensor.dims) <= SMALL:
            copy.initializer.append(tensor)
            continue
        info = listed.get(tensor.name) or copy.input.add(name=tensor.name)
        info.type.CopyFrom(helper.make_tensor_type_proto(tensor.data_type, tensor.dims))
    return copy


def copy_model_around(model: ModelProto, graph: GraphProto) -> ModelProto:
    """Copy a model with another graph in the place of its own, which is not even read."""
    copy = ModelProto()
    _copy_fields(model, copy, {"graph"})
    copy.graph.CopyFrom(graph)
    return copy


def _copy_fields(message: Any, copy: Any, left_out: Container[str]) -> None:
    for field, value in message.ListFields():
        if field.name in left_out:
            continue
        if isinstance(value, str | bytes | int | float):
            # Texts of old exporters may be no UTF-8; protobuf hands out their bytes, and takes none back.
            setattr(copy, field.name, value.decode("utf-8", "replace") if isinstance(value, bytes) else value)
        elif hasattr(value, "extend"):
            getattr(copy, field.name).extend(value)
        else:
            getattr(copy, field.name).CopyFrom(value)


def forget_records(model: ModelProto) -> ModelProto:
    """Take the recorded shapes and the names of free axes from a copy that is run, in place.

    onnxruntime infers shapes by itself. It plans one buffer for axes that an exporter named alike, in bodies too, and
    refuses outputs that do not have the shapes that were recorded for them.
    """
    for info in (*model.graph.output, *model.graph.value_info):
        if info.type.WhichOneof("value") == "tensor_type":
            info.type.tensor_type.ClearField("shape")
    for graph in all_graphs(model):
        for info in (*graph.input, *graph.output, *graph.value_info):
            for dim in info.type.tensor_type.shape.dim:
                dim.ClearField("dim_param")
    return model


def replace_nodes(graph: GraphProto | FunctionProto, nodes: Iterable[NodeProto]) -> None:
    """Let a graph or function body consist of `nodes`, which may be its own in another order."""
    copies: list[NodeProto] = []
    for node in nodes:
        copy = NodeProto()
        copy.CopyFrom(node)
        copies.append(copy)
    del graph.node[:]
    graph.node.extend(copies)


def forget_shapes(graph: GraphProto, names: Container[str]) -> None:
    """Drop the recorded shapes of some tensors."""
    _delete(graph.value_info, (position for position, info in enumerate(graph.value_info) if info.name in names))


def drop_initializers(graph: GraphProto, names: Container[str]) -> None:
    """Drop initializers by their names."""
    _delete(graph.initializer, (position for position, t in enumerate(graph.initializer) if t.name in names))


def drop_nodes(graph: GraphProto, positions: Iterable[int]) -> None:
    """Drop nodes by their positions."""
    _delete(graph.node, positions)


def drop_unread(graph: GraphProto, names: Iterable[str]) -> set[str]:
    """Drop what only served tensors that have lost their readers, and the recorded shapes of what goes.

    Args:
        graph: The graph, which is changed.
        names: Tensors that lost a reader; those that still have one, and what the user may feed, stay.

    Returns:
        Names of the tensors that went.
    """
    listed = {info.name for info in graph.input}
    readers = reader_counts(graph) + Counter(output.name for output in graph.output)
    producer = {name: position for position, node in enumerate(graph.node) for name in node.output if name}
    open_names, dropped, nodes = list(names), set[str](), set[int]()
    while open_names:
        name = open_names.pop()
        if not name or name in listed or name in dropped or readers[name]:
            continue
        dropped.add(name)
        position = producer.get(name)
        if position is None or any(readers[output] for output in graph.node[position].output):
            continue
        node = graph.node[position]
        nodes.add(position)
        dropped.update(output for output in node.output if output)
        readers.subtract(node.input)
        open_names.extend(node.input)
    drop_initializers(graph, dropped)
    drop_nodes(graph, nodes)
    forget_shapes(graph, dropped)
    return dropped


def _delete(items: MutableSequence[Any], positions: Iterable[int]) -> None:
    # From behind, so that the places before stay right; protobuf's own remove() compares whole messages.
    for position in sorted(positions, reverse=True):
        del items[position]
