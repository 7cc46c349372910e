"""Calls of local functions: bodies in which nothing changed become calls again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from onnx import FunctionProto, GraphProto, ModelProto, NodeProto

from onnxpfp.model.constants import subgraphs
from onnxpfp.model.edit import forget_shapes, replace_nodes
from onnxpfp.model.index import ModelIndex

__all__ = ["with_calls"]

Key = tuple[str, str, str]
"""Domain, name and overload of a function."""


@dataclass(frozen=True, slots=True, eq=False)
class _Call:
    """A call, and what stood in its place while the model was pruned.

    Attributes:
        node: The node that calls.
        body: The nodes of the body.
    """

    node: NodeProto
    body: tuple[NodeProto, ...]


def with_calls(model: ModelProto, given: ModelProto, flat: ModelProto) -> ModelProto:
    """Call local functions again whose bodies are what they were.

    Args:
        model: A model that was made from `flat`; it is not changed.
        given: The model with its functions.
        flat: The same with their bodies in place (`without_functions`).

    Returns:
        A model that computes the same; the model itself where no body is whole.
    """
    functions = {_key(function): function for function in given.functions}
    index = ModelIndex.of(model)
    calls = [call for call in _calls(given.graph, flat.graph, functions) if _is_whole(call, index)]
    if not calls:
        return model
    out = ModelProto()
    out.CopyFrom(model)
    last = {index.producers[call.body[-1].output[0]]: call.node for call in calls}
    gone = {index.producers[node.output[0]] for call in calls for node in call.body}
    kept = {name for call in calls for name in call.node.output}
    nodes = enumerate(model.graph.node)
    replace_nodes(out.graph, [last.get(place, node) for place, node in nodes if place not in gone or place in last])
    forget_shapes(out.graph, {name for call in calls for node in call.body for name in node.output} - kept)
    called = _reached([call.node for call in calls], functions)
    out.functions.extend(function for key, function in functions.items() if key in called)
    domains = {domain for domain, _, _ in called} - {entry.domain for entry in out.opset_import}
    out.opset_import.extend(entry for entry in given.opset_import if entry.domain in domains)
    return out


def _key(function: FunctionProto) -> Key:
    return function.domain, function.name, function.overload


def _called(node: NodeProto) -> Key:
    return node.domain, node.op_type, node.overload


def _size(node: NodeProto, functions: Mapping[Key, FunctionProto]) -> int:
    """Count the nodes that stand in the place of one."""
    function = functions.get(_called(node))
    return 1 if function is None else sum(_size(inner, functions) for inner in function.node)


def _calls(given: GraphProto, flat: GraphProto, functions: Mapping[Key, FunctionProto]) -> Iterator[_Call]:
    """Yield the calls of the main graph with their bodies, which stand in the order of the calls."""
    sizes = [_size(node, functions) for node in given.node]
    if sum(sizes) != len(flat.node):
        return
    place = 0
    for node, size in zip(given.node, sizes, strict=True):
        body = tuple(flat.node[place : place + size])
        place += size
        made = {name for inner in body for name in inner.output}
        if _called(node) in functions and body and made.issuperset(name for name in node.output if name):
            yield _Call(node, body)


def _is_whole(call: _Call, index: ModelIndex) -> bool:
    """Tell whether a model has a body as it was, and nothing else reads what is inside."""
    places = [index.producers.get(node.output[0]) for node in call.body]
    nodes = index.model.graph.node
    if any(place is None or nodes[place] != node for place, node in zip(places, call.body, strict=True)):
        return False
    inside = {name for node in call.body for name in node.output if name} - set(call.node.output)
    if not inside.isdisjoint(index.read_elsewhere):
        return False
    return all(place in places for name in inside for place, _ in index.uses.get(name, ()))


def _reached(nodes: Iterable[NodeProto], functions: Mapping[Key, FunctionProto]) -> set[Key]:
    """Return the functions that nodes call, and those that these call."""
    reached: set[Key] = set()
    open_nodes = list(nodes)
    while open_nodes:
        node = open_nodes.pop()
        open_nodes += [inner for graph in subgraphs(node) for inner in graph.node]
        key = _called(node)
        if key in functions and key not in reached:
            reached.add(key)
            open_nodes += functions[key].node
    return reached
