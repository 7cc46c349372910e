"""Put what was made of a body's model into the place of the body."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from onnx import GraphProto, ModelProto, TensorProto, helper

from onnxpfp.bodies.graphs import Body, inner_names
from onnxpfp.model.constants import subgraphs
from onnxpfp.model.edit import replace_nodes
from onnxpfp.model.names import free_name
from onnxpfp.runtime.external_data import numbers

__all__ = ["put_body", "store_in_nodes"]


def put_body(outer: ModelProto, body: Body, made: ModelProto, shared: Mapping[str, TensorProto]) -> None:
    """Let a body consist of the nodes and constants of a model that was made of its own, in place.

    Inputs and outputs stay those of the body. Tensors that are new get names that nothing else has.

    Args:
        outer: The model around the body, or what has become of it: where its node is gone, nothing is done.
        body: The body.
        made: The model.
        shared: Constants outside that its model has copies of; the body keeps only those that are others now.
    """
    graph = _graph_of(outer, body)
    if graph is None:
        return
    new = GraphProto()
    new.CopyFrom(made.graph)
    own = inner_names(body.graph) | {info.name for info in new.input}
    same = {tensor.name for tensor in new.initializer if _is_copy(tensor, shared)}
    outside, taken = inner_names(outer.graph), inner_names(new)
    clashing = sorted((taken - own - same) & outside)
    everything = outside | taken
    names = {name: free_name(name, everything) for name in clashing}
    _rename(new, names)
    for field in ("node", "initializer", "sparse_initializer", "value_info", "quantization_annotation"):
        graph.ClearField(field)
    graph.node.extend(new.node)
    graph.initializer.extend(tensor for tensor in new.initializer if tensor.name not in same)
    graph.sparse_initializer.extend(new.sparse_initializer)
    graph.value_info.extend(new.value_info)
    graph.quantization_annotation.extend(new.quantization_annotation)


def _is_copy(tensor: TensorProto, shared: Mapping[str, TensorProto]) -> bool:
    """Tell whether a constant is that of outside, as it was."""
    old = shared.get(tensor.name)
    return old is not None and tensor.data_type == old.data_type and np.array_equal(numbers(tensor), numbers(old))


def _rename(graph: GraphProto, names: Mapping[str, str]) -> None:
    """Give tensors other names, at whatever depth."""
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
        for inner in subgraphs(node):
            _rename(inner, names)
    for named in (*graph.initializer, *graph.output, *graph.value_info):
        named.name = names.get(named.name, named.name)


def _graph_of(outer: ModelProto, body: Body) -> GraphProto | None:
    outputs = {name for name in body.node.output if name}
    for node in outer.graph.node:
        if not outputs.isdisjoint(node.output) and any(True for _ in subgraphs(node)):
            return next(attribute.g for attribute in node.attribute if attribute.name == body.attribute)
    return None


def store_in_nodes(graph: GraphProto) -> None:
    """Store the constants of all bodies in a graph as nodes, in place: where those of files must be inputs (IR 3)."""
    for node in graph.node:
        for inner in subgraphs(node):
            constants = [helper.make_node("Constant", [], [tensor.name], value=tensor) for tensor in inner.initializer]
            inner.ClearField("initializer")
            replace_nodes(inner, [*constants, *inner.node])
            store_in_nodes(inner)
