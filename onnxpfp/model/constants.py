"""Constants of a model: initializers, Constant nodes, and all that follows from them alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakValueDictionary

import onnx
from numpy.typing import NDArray
from onnx import (
    AttributeProto,
    GraphProto,
    ModelProto,
    NodeProto,
    TensorProto,
    helper,
    numpy_helper,
)

from onnxpfp.errors import ModelError
from onnxpfp.model.random_ops import may_draw
from onnxpfp.runtime import open_session
from onnxpfp.runtime.external_data import is_reference, numbers

__all__ = [
    "FLOAT_TYPES",
    "INTEGERS",
    "Constants",
    "all_graphs",
    "all_names",
    "graphs_in",
    "named_subgraphs",
    "outer_names",
    "read_elsewhere",
    "reader_counts",
    "stored_tensors",
    "stores_matrix",
    "subgraphs",
    "weight_names",
]


LARGE = 1 << 20
"""Bytes of a stored tensor from which on its numbers are not held beside the model."""
FLOAT_TYPES = frozenset({TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE})
INTEGERS = frozenset({TensorProto.INT64, TensorProto.INT32, TensorProto.BOOL, TensorProto.STRING})
"""Types of tensors that are numbers of shape arithmetic rather than weights."""

INTEGER_WEIGHTS: Mapping[str, tuple[int, ...]] = {
    "DequantizeLinear": (0, 2),
    "QGemm": (6,),
    "QLinearConv": (8,),
}
"""Inputs of ops (of any domain) that read 32-bit integers as numbers: quantized biases."""


def subgraphs(node: NodeProto) -> Iterator[GraphProto]:
    """Yield the graphs that a control-flow node carries."""
    for _, graph in named_subgraphs(node):
        yield graph


def named_subgraphs(node: NodeProto) -> Iterator[tuple[str, GraphProto]]:
    """Yield the same with the names of the attributes that they are."""
    for attribute in node.attribute:
        if attribute.type == AttributeProto.GRAPH:
            yield attribute.name, attribute.g
        for number, graph in enumerate(attribute.graphs):
            yield f"{attribute.name}[{number}]", graph


def all_graphs(model: ModelProto) -> Iterator[GraphProto]:
    """Yield the main graph and all graphs in it."""
    return graphs_in(model.graph)


def graphs_in(graph: GraphProto) -> Iterator[GraphProto]:
    """Yield a graph and all graphs in it."""
    graphs = [graph]
    while graphs:
        graph = graphs.pop()
        yield graph
        graphs += [inner for node in graph.node for inner in subgraphs(node)]


def outer_names(node: NodeProto) -> set[str]:
    """Return the names that the subgraphs of `node` may capture from outside."""
    names: set[str] = set()
    for graph in subgraphs(node):
        inner = {name for n in graph.node for name in n.output} | {i.name for i in graph.input}
        inner |= {t.name for t in graph.initializer}
        for n in graph.node:
            names |= ({name for name in n.input if name} | outer_names(n)) - inner
        names |= {o.name for o in graph.output} - inner
    return names


def all_names(graph: GraphProto) -> set[str]:
    """Return the names that tensors of a graph have, and those that its subgraphs may capture."""
    names = {t.name for t in graph.initializer} | {i.name for i in graph.input}
    for node in graph.node:
        names.update(node.output)
        names |= outer_names(node)
    return names


def _constant_tensor(node: NodeProto) -> TensorProto | None:
    """Return the tensor of a Constant node, or None where it is sparse, text or in pieces."""
    for attribute in node.attribute:
        if attribute.name == "value":
            return attribute.t
    return None


def reader_counts(graph: GraphProto) -> Counter[str]:
    """Count how often nodes read every tensor, captures by subgraphs included."""
    counts = Counter(name for node in graph.node for name in node.input if name)
    for node in graph.node:
        counts.update(outer_names(node))
    return counts


def read_elsewhere(graph: GraphProto) -> frozenset[str]:
    """Return what something else than a node of the graph itself reads: its outputs, and captures by subgraphs."""
    return frozenset({output.name for output in graph.output}.union(*map(outer_names, graph.node)))


def stored_tensors(graph: GraphProto) -> dict[str, TensorProto]:
    """Return every stored tensor by the name under which nodes read it (live, not copied)."""
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.domain in {"", "ai.onnx"}:
            tensor = _constant_tensor(node)
            if tensor is not None:
                tensors[node.output[0]] = tensor
    return tensors


def weight_names(graph: GraphProto) -> tuple[str, ...]:
    """Return the names of stored tensors that are weights.

    Integers are shape arithmetic, indices or masks, except where an op makes numbers of them.
    """
    read: set[str] = set()
    for node in graph.node:
        positions = INTEGER_WEIGHTS.get(node.op_type, ())
        read.update(node.input[position] for position in positions if position < len(node.input))
    return tuple(
        name for name, tensor in stored_tensors(graph).items() if tensor.data_type not in INTEGERS or name in read
    )


def stores_matrix(graph: GraphProto) -> bool:
    """Tell whether a graph stores a matrix or a filter bank, those of graphs inside of its nodes apart."""
    stored = stored_tensors(graph)
    return any(len(stored[name].dims) > 1 for name in weight_names(graph))


@dataclass(slots=True, eq=False)
class Constants:
    """Looks up and computes the tensors that do not depend on the model's inputs.

    Attributes:
        model: The model.
        names: All tensors that follow from constants alone.
        stored: The stored tensors by name.
        weights: Names of those that are weights; the others are numbers of shape arithmetic.
        apart: Those of `names` that lie in files, or are computed from such: they are not to be held.
    """

    model: ModelProto
    names: frozenset[str] = frozenset()
    stored: Mapping[str, TensorProto] = field(default_factory=dict[str, TensorProto])
    weights: tuple[str, ...] = ()
    apart: frozenset[str] = frozenset()
    _producer: dict[str, NodeProto] = field(default_factory=dict[str, NodeProto])
    _cache: dict[str, NDArray[Any]] = field(default_factory=dict[str, NDArray[Any]])
    _in_use: WeakValueDictionary[str, NDArray[Any]] = field(default_factory=WeakValueDictionary[str, NDArray[Any]])

    @classmethod
    def of(cls, model: ModelProto) -> Constants:
        """Find the constants of `model`."""
        graph = model.graph
        stored = stored_tensors(graph)
        known = set(stored)
        apart = {name for name, tensor in stored.items() if is_reference(tensor)}
        producer: dict[str, NodeProto] = {}
        for node in graph.node:
            producer.update({name: node for name in node.output if name})
            inputs = [name for name in node.input if name]
            if may_draw(node) or any(True for _ in subgraphs(node)):
                continue
            if node.op_type == "Constant" or (inputs and known.issuperset(inputs)):
                known.update(name for name in node.output if name)
                if not apart.isdisjoint(inputs):
                    apart.update(name for name in node.output if name)
        return cls(model, frozenset(known), stored, weight_names(graph), frozenset(apart), producer)

    def value(self, name: str) -> NDArray[Any]:
        """Compute a constant tensor.

        What is large and stored is read out of the model anew once nobody uses it any more: a second copy of all
        weights would take as much as the model.

        Raises:
            KeyError: `name` depends on the model's inputs.
            ModelError: onnxruntime cannot compute it.
        """
        if name not in self.names:
            raise KeyError(name)
        known = self._cache.get(name)
        known = self._in_use.get(name) if known is None else known
        if known is not None:
            return known
        tensor = self.stored.get(name)
        value = self._compute(name) if tensor is None else numbers(tensor)
        if name not in self.apart:
            held = self._cache if tensor is None or value.nbytes < LARGE else self._in_use
            held[name] = value
        return value

    def nodes_behind(self, name: str) -> list[NodeProto]:
        """Return the nodes that compute a constant, in topological order."""
        # Nodes with several outputs come once; the values of _producer keep their identity.
        needed: dict[int, NodeProto] = {}
        visited: set[str] = set()
        stack: list[tuple[str, bool]] = [(name, False)]
        while stack:
            tensor, ready = stack.pop()
            node = self._producer.get(tensor)
            if node is None or (not ready and tensor in visited):
                continue
            if ready:
                needed.setdefault(id(node), node)
                continue
            visited.add(tensor)
            stack.append((tensor, True))
            stack.extend((i, False) for i in node.input if i)
        return [*needed.values()]

    def apply(self, node: NodeProto, fed: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
        """Run one node whose other inputs are constants.

        Args:
            node: The node.
            fed: What it is fed, by name.

        Raises:
            ModelError: onnxruntime cannot run it.
        """
        given = {name: fed[name] if name in fed else self.value(name) for name in node.input if name}
        stored = [numpy_helper.from_array(array, name) for name, array in given.items()]
        graph = helper.make_graph([node], "node", [], [onnx.ValueInfoProto(name=node.output[0])], stored)
        part = ModelProto(ir_version=self.model.ir_version, graph=graph)
        part.opset_import.extend(self.model.opset_import)
        return open_session(part, threads=1).run({}, [node.output[0]])[node.output[0]]

    def _compute(self, name: str) -> NDArray[Any]:
        nodes = self.nodes_behind(name)
        read = {i for node in nodes for i in node.input}
        graph = helper.make_graph(
            nodes,
            "constant",
            [],
            [onnx.ValueInfoProto(name=name)],
            [t for t in self.model.graph.initializer if t.name in read],
        )
        part = ModelProto(ir_version=self.model.ir_version, graph=graph)
        part.opset_import.extend(self.model.opset_import)
        part.functions.extend(self.model.functions)
        try:
            return open_session(part, threads=1).run({}, [name])[name]
        except ModelError as error:
            raise ModelError(f"the constant tensor '{name}' cannot be computed: {error}") from error
