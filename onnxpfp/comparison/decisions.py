"""What a network decides on, and copies of models that decide on given numbers.

A near tie turns a rounding into another row, another length or another branch, and what comes behind can no longer be
compared number by number. So two networks are compared piece by piece: what the one decides on must agree with what
the other decides on, and the other decides on the numbers of the one. What then still differs is no tie.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Self

from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper

from onnxpfp.arrays import AnyArray, Arrays
from onnxpfp.channels.facts import Deciding
from onnxpfp.channels.macs import multiplies
from onnxpfp.channels.ops import RULES, facts_of, op_name
from onnxpfp.model.attributes import Attributes
from onnxpfp.model.constants import outer_names, subgraphs
from onnxpfp.model.edit import GIVEN, forget_records
from onnxpfp.model.names import first_output

__all__ = [
    "FLOATS",
    "STATE",
    "Decisions",
    "behind_products",
    "decided_on",
    "decision_of",
    "ends_by_weights",
    "exposing",
    "jumping",
    "reads",
    "redirect",
    "used_tensors",
]

FLOATS = frozenset({TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16})
_LENGTHS = frozenset({"Shape", "Size"})
"""Ops whose results say nothing of the numbers that they read."""
STATE = 2
"""Position of the first state among the inputs of a Loop and of its body."""


def reads(node: NodeProto) -> set[str]:
    """Return all that a node reads, what its subgraphs capture included."""
    return {name for name in node.input if name} | outer_names(node)


def exposing(model: ModelProto, names: Iterable[str]) -> ModelProto:
    """Copy a model with more tensors among its outputs."""
    exposed = ModelProto()
    exposed.CopyFrom(model)
    present = {output.name for output in model.graph.output}
    exposed.graph.output.extend(ValueInfoProto(name=name) for name in dict.fromkeys(names) if name not in present)
    return forget_records(exposed)


def decision_of(node: NodeProto) -> Deciding | None:
    """Return how the results of a node jump, or None where they go smoothly with what it reads.

    An op that nothing is known of may do so, and so does a node in whose subgraphs something does.
    """
    inner = [decision_of(each) for graph in subgraphs(node) for each in graph.node]
    if any(inner):
        return Deciding(picks=any(each is not None and each.picks for each in inner))
    if op_name(node.op_type, node.domain) not in RULES:
        return Deciding()
    decides = facts_of(node).decides
    if decides is None or (decides.unless_float and Attributes(node).integer("to", 0) in FLOATS):
        return None
    return decides


def ends_by_weights(node: NodeProto, behind: Container[str]) -> bool:
    """Tell whether the number of turns of a Loop, and so the length of its results, depends on floats that it computes.

    A counter does not: whole numbers of its state are followed to what they start from.

    Args:
        node: A node.
        behind: Tensors around it that depend on weights.
    """
    if node.op_type != "Loop":
        return False
    body = next(subgraphs(node))
    makers = {name: each for each in body.node for name in each.output}
    states = {info.name: place for place, info in enumerate(body.input)}
    waiting, visited = [body.output[0].name], set[str]()
    while waiting:
        name = waiting.pop()
        if name in visited:
            continue
        visited.add(name)
        if name in makers:
            if multiplies(makers[name]):
                return True
            waiting += reads(makers[name])
        elif states.get(name, 0) >= STATE:
            place = states[name]
            if body.input[place].type.tensor_type.elem_type in FLOATS or node.input[place] in behind:
                return True
            waiting.append(body.output[place - 1].name)
        elif name in behind:
            return True
    return False


def behind_products(graph: GraphProto, known: Iterable[str] = ()) -> set[str]:
    """Return the tensors whose numbers depend on those that some op with multiply-adds makes.

    All others are the same in a network and in what is left of it: channels go where such an op reads them.

    Args:
        graph: The graph.
        known: Tensors that do so by what is outside of it.
    """
    behind = set(known)
    for node in graph.node:
        if node.op_type not in _LENGTHS and (multiplies(node) or not behind.isdisjoint(reads(node))):
            behind.update(name for name in node.output if name)
    return behind


def used_tensors(graph: GraphProto) -> set[str]:
    """Return the tensors that something reads, or that are outputs."""
    return set[str]().union(*map(reads, graph.node)) | {output.name for output in graph.output}


def jumping(node: NodeProto, decision: Deciding) -> Iterator[str]:
    """Yield the results of a node that jump; the best numbers of TopK do not, in their order, while their places do."""
    for position, name in enumerate(node.output):
        if name and (decision.jumps is None or position in decision.jumps):
            yield name


def decided_on(node: NodeProto) -> Iterator[str]:
    """Yield what a node decides on."""
    decision = decision_of(node)
    for position, name in enumerate(node.input):
        if name and (decision is None or decision.reads is None or position in decision.reads):
            yield name
    yield from outer_names(node)


@dataclass(frozen=True, slots=True, eq=False)
class Decisions:
    """The tensors that nodes of a model decide on.

    Attributes:
        by_node: Names of the tensors by the node's first output.
        results: What those nodes make of them that read nothing else that depends on weights: the same of the same.
        hidden: Whether something inside a subgraph decides on what is computed there with weights, which only its
            results show.
    """

    by_node: Mapping[str, frozenset[str]]
    results: frozenset[str] = frozenset()
    hidden: bool = False

    @classmethod
    def of(cls, model: ModelProto) -> Self:
        """Find all decisions of a model on what depends on its weights, but for those inside of subgraphs."""
        behind, used = behind_products(model.graph), used_tensors(model.graph)
        by_node: dict[str, frozenset[str]] = {}
        results: set[str] = set()
        hidden = False
        for node in model.graph.node:
            decision = decision_of(node)
            if decision is None or used.isdisjoint(jumping(node, decision)):
                continue
            tensors = behind.intersection(decided_on(node))
            if tensors:
                by_node[first_output(node)] = frozenset(tensors)
            if tensors and facts_of(node).decides is not None and tensors == behind.intersection(reads(node)):
                results.update(name for name in node.output if name)
            hidden = hidden or (multiplies(node) and any(True for _ in subgraphs(node)))
        return cls(by_node, frozenset(results), hidden)

    @property
    def tensors(self) -> set[str]:
        """All that is decided on."""
        return set[str]().union(*self.by_node.values())

    def given(self, values: Arrays) -> dict[str, AnyArray]:
        """Return what a copy of the model is fed to decide on, of the numbers in `values`; whole ones never differ."""
        return {
            GIVEN + name: values[name]
            for name in sorted(self.tensors & values.keys())
            if values[name].dtype.kind == "f"
        }

    def on_given(self, model: ModelProto, given: Arrays) -> ModelProto:
        """Copy a model: the nodes decide on inputs of the names and types of `given`, whatever it computes itself.

        Args:
            model: The model of which this is, or another in which tensors have the same names; nodes that it does not
                have are passed over.
            given: As `given` returns it.
        """
        copy = ModelProto()
        copy.CopyFrom(model)
        used: set[str] = set()
        for node in copy.graph.node:
            names = self.by_node.get(first_output(node), frozenset()).intersection(decided_on(node))
            new = {name: GIVEN + name for name in names if GIVEN + name in given}
            redirect(node, new)
            used.update(new.values())
        for name in sorted(used):
            kind = helper.np_dtype_to_tensor_dtype(given[name].dtype)
            copy.graph.input.append(helper.make_tensor_value_info(name, kind, None))
        return copy


def redirect(node: NodeProto, new: Mapping[str, str]) -> None:
    """Let a node decide on other tensors."""
    decision = decision_of(node)
    for position, name in enumerate(node.input):
        if name in new and (decision is None or decision.reads is None or position in decision.reads):
            node.input[position] = new[name]
    for graph in subgraphs(node):
        _rename_captured(graph, new)


def _rename_captured(graph: GraphProto, new: Mapping[str, str]) -> None:
    """Let a subgraph capture other tensors; what it makes itself under a name of theirs is its own."""
    own = {name for node in graph.node for name in node.output} | {info.name for info in graph.input}
    own |= {tensor.name for tensor in graph.initializer}
    free = {name: other for name, other in new.items() if name not in own}
    for node in graph.node:
        node.input[:] = [free.get(name, name) for name in node.input]
        for inner in subgraphs(node):
            _rename_captured(inner, free)
    for info in graph.output:
        info.name = free.get(info.name, info.name)
