"""Nodes in topological order, as ONNX demands; onnxruntime sorts a main graph that is not, and so do we, all graphs.

The order is stable: of the nodes that may come next the first in the file does, so a sorted graph stays as it is.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence

from onnx import FunctionProto, GraphProto, ModelProto, NodeProto

from onnxpfp.errors import ModelError
from onnxpfp.model.constants import all_graphs, outer_names, subgraphs
from onnxpfp.model.edit import replace_nodes
from onnxpfp.model.names import node_name

__all__ = ["with_sorted_nodes"]


def with_sorted_nodes(model: ModelProto) -> ModelProto:
    """Sort the nodes of all graphs and function bodies; a model in which all are sorted is returned as it is.

    Args:
        model: The model; it is not changed.

    Raises:
        ModelError: A node depends on its own output.
    """
    if all(_is_sorted(body.node) for body in _bodies(model)):
        return model
    copy = ModelProto()
    copy.CopyFrom(model)
    # Inner graphs last: sorting one puts copies of its nodes, and so of their subgraphs, in its place.
    for body in _bodies(copy):
        if not _is_sorted(body.node):
            replace_nodes(body, [body.node[position] for position in _order(body.node)])
    return copy


def _bodies(model: ModelProto) -> Iterator[GraphProto | FunctionProto]:
    """Yield all graphs and functions, those that contain others before these."""
    yield from all_graphs(model)
    for function in model.functions:
        yield function
        inner = [graph for node in function.node for graph in subgraphs(node)]
        while inner:
            graph = inner.pop()
            yield graph
            inner += [other for node in graph.node for other in subgraphs(node)]


def _reads(node: NodeProto) -> set[str]:
    """Return the tensors that must be there before a node runs; its subgraphs may read some, too."""
    return {*node.input, *outer_names(node)}


def _is_sorted(nodes: Sequence[NodeProto]) -> bool:
    later = {name for node in nodes for name in node.output if name}
    for node in nodes:
        if not later.isdisjoint(_reads(node)):
            return False
        later.difference_update(node.output)
    return True


def _order(nodes: Sequence[NodeProto]) -> list[int]:
    """Return the positions of the nodes in their new order.

    Raises:
        ModelError: A node depends on its own output.
    """
    producer = {name: position for position, node in enumerate(nodes) for name in node.output if name}
    before = [{producer[name] for name in _reads(node) if name in producer} for node in nodes]
    behind: list[list[int]] = [[] for _ in nodes]
    for position, needed in enumerate(before):
        for other in needed:
            behind[other].append(position)
    missing = [len(needed) for needed in before]
    ready = [position for position, count in enumerate(missing) if not count]
    order: list[int] = []
    while ready:
        position = heapq.heappop(ready)
        order.append(position)
        for other in behind[position]:
            missing[other] -= 1
            if not missing[other]:
                heapq.heappush(ready, other)
    if len(order) < len(nodes):
        raise _cyclic(nodes, before, {*range(len(nodes))} - {*order})
    return order


def _cyclic(nodes: Sequence[NodeProto], before: Sequence[set[int]], left: set[int]) -> ModelError:
    """Say which node depends on itself, among those that cannot be ordered."""
    visited: set[int] = set()
    position = min(left)
    while position not in visited:
        visited.add(position)
        position = min(before[position] & left)
    node = nodes[position]
    return ModelError(
        f"the graph is cyclic: {node.op_type} '{node_name(node)}' depends on its own output",
        hint="export the model again",
    )
