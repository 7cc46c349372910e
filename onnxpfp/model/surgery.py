"""Small edits of a graph that several stages make: constants come, nodes that nothing reads go."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper

from onnxpfp.model.constants import reader_counts

__all__ = ["add_constants", "drop_unread", "forget_axis_names", "replace_nodes"]

INITIALIZERS_ARE_FREE = 4
"""First IR version in which an initializer need not be an input."""


def add_constants(model: ModelProto, tensors: Sequence[TensorProto]) -> None:
    """Add constants: as initializers, or as nodes where those must be inputs (IR 3)."""
    if model.ir_version >= INITIALIZERS_ARE_FREE:
        model.graph.initializer.extend(tensors)
        return
    nodes = [helper.make_node("Constant", [], [tensor.name], value=tensor) for tensor in tensors]
    replace_nodes(model.graph, [*nodes, *model.graph.node])


def forget_axis_names(model: ModelProto) -> ModelProto:
    """Take the names from free axes, in place: onnxruntime plans one buffer for axes that an exporter named alike."""
    for info in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        for dim in info.type.tensor_type.shape.dim:
            dim.ClearField("dim_param")
    return model


def replace_nodes(graph: GraphProto, nodes: Iterable[NodeProto]) -> None:
    """Let a graph consist of `nodes`, which may be its own in another order."""
    copies: list[NodeProto] = []
    for node in nodes:
        copy = NodeProto()
        copy.CopyFrom(node)
        copies.append(copy)
    del graph.node[:]
    graph.node.extend(copies)


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
    producer = {name: node for node in graph.node for name in node.output if name}
    open_names, gone = list(names), set[str]()
    while open_names:
        name = open_names.pop()
        if not name or name in listed or name in gone or readers[name]:
            continue
        gone.add(name)
        for tensor in [tensor for tensor in graph.initializer if tensor.name == name]:
            graph.initializer.remove(tensor)
        node = producer.get(name)
        if node is not None and not any(readers[output] for output in node.output):
            gone.update(output for output in node.output if output)
            readers.subtract(node.input)
            open_names.extend(node.input)
            graph.node.remove(node)
    for info in [info for info in graph.value_info if info.name in gone]:
        graph.value_info.remove(info)
    return gone
