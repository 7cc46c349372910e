"""The bodies of a model: where they are, and what they read from outside."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from onnx import AttributeProto, GraphProto, ModelProto, NodeProto

from onnxpfp.channels.macs import multiplies
from onnxpfp.channels.name_patterns import name_inside, names_of
from onnxpfp.model.constants import outer_names, subgraphs
from onnxpfp.model.names import first_output

__all__ = ["BODY_OPS", "Body", "bodies_of", "captured_names", "inner_names", "names_inside", "places_of"]

BODY_OPS = frozenset({"If", "Loop", "Scan"})
"""Ops whose bodies can be taken out: what they feed them is known."""


@dataclass(frozen=True, slots=True, eq=False)
class Body:
    """A graph that a node carries, with ops that multiply in it.

    Attributes:
        node: The node.
        attribute: The attribute that it is.
        place: The node and the attribute, as reports name them: `If_0/then_branch`.
        graph: The graph.
    """

    node: NodeProto
    attribute: str
    place: str
    graph: GraphProto

    @property
    def title(self) -> str:
        """The node, as reasons name it."""
        return f"{self.node.op_type} '{self.place.rsplit('/', 1)[0]}'"


def bodies_of(model: ModelProto) -> list[Body]:
    """List the bodies of the main graph's nodes in which something multiplies, at whatever depth."""
    return [
        Body(node, attribute.name, f"{name}/{attribute.name}", attribute.g)
        for node, name in _carriers(model.graph)
        for attribute in node.attribute
        if attribute.type == AttributeProto.GRAPH and any(map(multiplies, attribute.g.node))
    ]


def places_of(graph: GraphProto, outer: str = "") -> Iterator[tuple[str, GraphProto]]:
    """Yield every graph inside of a graph, with its place."""
    for node, name in _carriers(graph):
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                place = f"{outer}{name}/{attribute.name}"
                yield place, attribute.g
                yield from places_of(attribute.g, f"{place}/")


def _carriers(graph: GraphProto) -> Iterator[tuple[NodeProto, str]]:
    """Yield the nodes that carry graphs, with names of which each stands once."""
    carriers = [node for node in graph.node if any(True for _ in subgraphs(node))]
    names = Counter(node.name for node in carriers)
    for node in carriers:
        yield node, node.name if node.name and names[node.name] == 1 else first_output(node)


def captured_names(graph: GraphProto) -> list[str]:
    """Return the names that a body reads from outside, each once, in the order in which they are read."""
    inside = {info.name for info in graph.input} | {tensor.name for tensor in graph.initializer}
    inside |= {tensor.values.name for tensor in graph.sparse_initializer}
    inside |= {name for node in graph.node for name in node.output}
    read = [name for node in graph.node for name in (*node.input, *sorted(outer_names(node))) if name]
    read += [output.name for output in graph.output]
    return [name for name in dict.fromkeys(read) if name not in inside]


def inner_names(graph: GraphProto) -> set[str]:
    """Return the names of all tensors that a graph defines, graphs inside of it included."""
    names = {info.name for info in graph.input} | {tensor.name for tensor in graph.initializer}
    names |= {tensor.values.name for tensor in graph.sparse_initializer}
    for node in graph.node:
        names.update(name for name in node.output if name)
        for inner in subgraphs(node):
            names |= inner_names(inner)
    return names


def names_inside(graph: GraphProto) -> set[str]:
    """Return what patterns may mean in the graphs inside of a graph: bodies, their nodes and weights."""
    inner = {place: names_of(body) for place, body in places_of(graph)}
    behind = {name_inside(place, name) for place, names in inner.items() for name in names}
    return behind.union(inner, *inner.values())
