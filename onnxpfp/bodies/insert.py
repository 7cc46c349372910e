"""Put what was made of a body's model into the place of the body."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
from onnx import GraphProto, ModelProto, TensorProto

from onnxpfp.bodies.graphs import Body, inner_names
from onnxpfp.model.constants import subgraphs
from onnxpfp.model.edit import rename_tensors
from onnxpfp.runtime.external_data import numbers

__all__ = ["put_body"]


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
    own = inner_names(body.graph) | {info.name for info in body.graph.input}
    same = {t.name for t in new.initializer if t.name in shared and _equal(t, shared[t.name])}
    taken = inner_names(outer.graph)
    names: dict[str, str] = {}
    for name in sorted(inner_names(new) - own - same - {info.name for info in new.input}):
        names[name] = _free(name, taken)
        taken.add(names[name])
    initializers = [tensor for tensor in new.initializer if tensor.name not in same]
    for tensor in initializers:
        tensor.name = names.get(tensor.name, tensor.name)
    for field in ("node", "initializer", "sparse_initializer", "value_info", "quantization_annotation"):
        graph.ClearField(field)
    graph.node.extend(rename_tensors(node, names) for node in new.node)
    graph.initializer.extend(initializers)
    graph.sparse_initializer.extend(new.sparse_initializer)
    graph.value_info.extend(info for info in new.value_info if info.name not in names)
    graph.quantization_annotation.extend(new.quantization_annotation)


def _graph_of(outer: ModelProto, body: Body) -> GraphProto | None:
    outputs = {name for name in body.node.output if name}
    for node in outer.graph.node:
        if not outputs.isdisjoint(node.output) and any(True for _ in subgraphs(node)):
            return next(attribute.g for attribute in node.attribute if attribute.name == body.attribute)
    return None


def _equal(one: TensorProto, two: TensorProto) -> bool:
    return one.data_type == two.data_type and np.array_equal(numbers(one), numbers(two))


def _free(name: str, taken: Collection[str]) -> str:
    free, number = name, 1
    while free in taken:
        free, number = f"{name}_{number}", number + 1
    return free
