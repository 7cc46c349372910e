"""Ops that onnxruntime lacks: what lies before them (the head) is run and pruned, they and all behind (the tail) stay.

The tensors that the tail reads become outputs of the head: they keep all their indices, and it is by them that the
pruned head is measured and verified. So the tail fits the pruned head as it fitted the original, and is put back whole.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto

from onnxpfp.counted import counted
from onnxpfp.model.constants import outer_names, reader_counts, stored_tensors, subgraphs, weight_names
from onnxpfp.model.edit import add_constants, copy_graph_without, copy_model_around
from onnxpfp.model.names import node_name
from onnxpfp.model.recorded import inferred_types
from onnxpfp.runtime.missing import MissingOp

__all__ = ["Tail", "cut"]

UNSEEN = frozenset(
    number
    for name, number in TensorProto.DataType.items()
    if name == "BFLOAT16" or name.startswith(("FLOAT8", "FLOAT4", "INT4", "UINT4", "INT2", "UINT2"))
)
"""Types of tensors that onnxruntime does not hand out, so that a cut comes before the node that makes them."""


@dataclass(frozen=True, slots=True, eq=False)
class Tail:
    """The part of a model that is not run.

    Attributes:
        whole: The model that it was cut from.
        given: The model as it was given, function bodies in their calls and so on.
        lacking: The ops that onnxruntime lacks.
        refusal: What onnxruntime says against the whole model.
        nodes: Positions of its nodes in the whole model.
        reasons: Why the tensors of the head stay that it reads, by name.
    """

    whole: ModelProto
    given: ModelProto
    lacking: tuple[MissingOp, ...]
    refusal: str
    nodes: tuple[int, ...]
    reasons: Mapping[str, str]

    @property
    def titles(self) -> str:
        """The ops that onnxruntime lacks, as people write them."""
        return ", ".join(dict.fromkeys(op.title for op in self.lacking))

    @property
    def note(self) -> str:
        """What the user should know: what was not run."""
        unrun = counted(len(self.nodes), "node was not run: it stays", "nodes were not run: they stay")
        border = list(self.reasons)
        shown = ", ".join(f"'{name}'" for name in border[:3]) + (
            f" and {len(border) - 3} more" if len(border) > 3 else ""
        )
        return (
            f"onnxruntime lacks {self.titles}, so {unrun} whole, without MACs being counted. What lies "
            f"before is measured and verified by what is read of it, {shown}. --custom-ops LIBRARY registers more ops"
        )

    @property
    def weights(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the weights that it alone reads, by name."""
        graph = self.whole.graph
        head = _head_reads(graph, {*self.nodes})
        made = {name for position in self.nodes for name in graph.node[position].output}
        stored = stored_tensors(graph)
        return {name: tuple(stored[name].dims) for name in weight_names(graph) if name in made or name not in head}

    def put_back(self, head: ModelProto) -> ModelProto:
        """Return the whole model with another head.

        Args:
            head: What became of the head; the tensors that the tail reads are as they were.
        """
        model = ModelProto()
        model.CopyFrom(head)
        whole, graph = self.whole.graph, model.graph
        nodes = [whole.node[position] for position in self.nodes]
        _rename_new(graph, whole, nodes)
        present = {tensor.name: tensor for tensor in graph.initializer}
        read = {name for node in nodes for name in _reads(node)} | {output.name for output in whole.output}
        again = [tensor for tensor in whole.initializer if tensor.name in read and tensor.name not in present]
        both = [tensor for tensor in whole.initializer if tensor.name in read and tensor.name in present]
        graph.initializer.extend(again)
        names = _add_copies(model, [tensor for tensor in both if present[tensor.name] != tensor])
        for node in nodes:
            copy = graph.node.add()
            copy.CopyFrom(node)
            copy.input[:] = [names.get(name, name) for name in node.input]
        made = {name for node in nodes for name in node.output}
        graph.value_info.extend(info for info in whole.value_info if info.name in made)
        outputs = {info.name: info for info in graph.output}
        shown = [ValueInfoProto.FromString(outputs.get(o.name, o).SerializeToString()) for o in whole.output]
        del graph.output[:]
        graph.output.extend(shown)
        return model


def cut(
    model: ModelProto, given: ModelProto, lacking: Sequence[MissingOp], refusal: str
) -> tuple[ModelProto, Tail] | None:
    """Cut a model before the ops that onnxruntime lacks.

    Args:
        model: The model; it is not changed.
        given: The same as it was given.
        lacking: The ops.
        refusal: What onnxruntime says against the model.

    Returns:
        What lies before them, and the rest; None where none of its nodes is one of them.
    """
    graph = model.graph
    moved: set[int] = set()
    while True:
        behind = _behind(graph, lacking, moved)
        if not behind:
            return None
        tail = [position for position, node in enumerate(graph.node) if not behind.keys().isdisjoint(node.output)]
        nodes = sorted({*tail, *_only_for(graph, {*tail})})
        head, border = _head(model, nodes), _border(graph, nodes)
        types = inferred_types(head)
        unseen = {name for name in border if name in types and types[name].tensor_type.elem_type in UNSEEN}
        new = {position for position, node in enumerate(graph.node) if not unseen.isdisjoint(node.output)} - moved
        if not new:
            break
        moved |= new
    reasons: dict[str, str] = {}
    for position in reversed(tail):
        node = graph.node[position]
        reasons.update(dict.fromkeys(_reads(node), _reason(node, lacking, behind)))
    present = {output.name for output in head.graph.output}
    for name in border:
        if name not in present:
            head.graph.output.append(ValueInfoProto(name=name, type=types.get(name)))
    other = f"it is read behind {lacking[0].title}, an op that onnxruntime lacks"
    reasons = {name: reasons.get(name, other) for name in border}
    return head, Tail(model, given, tuple(lacking), refusal, tuple(nodes), reasons)


def _behind(graph: GraphProto, lacking: Sequence[MissingOp], moved: Collection[int]) -> dict[str, str]:
    """Find the tensors that depend on missing ops, or on nodes that go with them; the value is the op."""
    behind: dict[str, str] = {}
    for position, node in enumerate(graph.node):
        causes = [op.title for op in lacking if _has(node, op)] or [behind[n] for n in _reads(node) if n in behind]
        if causes or position in moved:
            behind.update((name, (*causes, lacking[0].title)[0]) for name in node.output if name)
    return behind


def _has(node: NodeProto, missing: MissingOp) -> bool:
    """Tell whether a node is of a missing op, or has one in a graph inside."""
    domain = "" if node.domain == "ai.onnx" else node.domain
    if node.op_type == missing.op and missing.domain in {None, domain} and missing.node in {"", node.name}:
        return True
    return any(_has(inner, missing) for graph in subgraphs(node) for inner in graph.node)


def _reads(node: NodeProto) -> list[str]:
    return [name for name in (*node.input, *sorted(outer_names(node))) if name]


def _reason(node: NodeProto, lacking: Sequence[MissingOp], behind: Mapping[str, str]) -> str:
    """Say why what a node of the tail reads stays."""
    name = node_name(node)
    if any(_has(node, op) for op in lacking):
        return f"{node.op_type} '{name}' reads it, an op that onnxruntime lacks"
    cause = next((behind[read] for read in _reads(node) if read in behind), None)
    if cause is None:
        return f"{node.op_type} '{name}' makes numbers of it for an op that onnxruntime lacks"
    return f"{node.op_type} '{name}' reads it, and depends on an op that onnxruntime lacks: {cause}"


def _only_for(graph: GraphProto, tail: set[int]) -> Iterator[int]:
    """Yield the nodes before the tail that compute constants for it alone, its weights among them."""
    fed = {info.name for info in graph.input} - {tensor.name for tensor in graph.initializer}
    varying = set(fed)
    for node in graph.node:
        if not varying.isdisjoint(_reads(node)):
            varying.update(node.output)
    readers = reader_counts(graph)
    for output in graph.output:
        readers[output.name] += 1
    for position in tail:
        readers.subtract(_reads(graph.node[position]))
    for position in reversed(range(len(graph.node))):
        node = graph.node[position]
        alone = varying.isdisjoint(node.output) and not any(readers[name] for name in node.output if name)
        if position not in tail and alone:
            readers.subtract(_reads(node))
            yield position


def _head_reads(graph: GraphProto, tail: Collection[int]) -> set[str]:
    return {name for position, node in enumerate(graph.node) if position not in tail for name in _reads(node)}


def _head(model: ModelProto, tail: Collection[int]) -> ModelProto:
    """Copy a model without the nodes of the tail, and what only these make or read."""
    graph = model.graph
    made = {name for position in tail for name in graph.node[position].output}
    read = _head_reads(graph, tail) | {output.name for output in graph.output}
    dropped = {tensor.name for tensor in graph.initializer} - read - {info.name for info in graph.input}
    lists = {"node", "initializer", "output", "value_info"}
    head = copy_graph_without(graph, lists)
    head.node.extend(node for position, node in enumerate(graph.node) if position not in tail)
    head.initializer.extend(tensor for tensor in graph.initializer if tensor.name not in dropped)
    head.output.extend(output for output in graph.output if output.name not in made)
    head.value_info.extend(info for info in graph.value_info if info.name not in made)
    return copy_model_around(model, head)


def _border(graph: GraphProto, tail: Collection[int]) -> list[str]:
    """List what the tail reads of the head.

    Of what is stored for both, a vector is one for each of its uses (exporters merge equal ones). A matrix is one
    thing, and so is what a graph inside of a node reads.
    """
    nodes = [graph.node[position] for position in sorted(tail)]
    apart = {name for node in nodes for name in node.output} | {info.name for info in graph.input}
    captured = set[str]().union(*map(outer_names, nodes))
    used = _head_reads(graph, tail)
    for tensor in graph.initializer:
        if tensor.name in used and (len(tensor.dims) > 1 or tensor.name in captured):
            apart.discard(tensor.name)
        else:
            apart.add(tensor.name)
    return [name for name in dict.fromkeys(name for node in nodes for name in _reads(node)) if name not in apart]


def _rename_new(graph: GraphProto, whole: GraphProto, tail: Sequence[NodeProto]) -> None:
    """Give other names to what pruning has added to the head, where the tail has such names."""
    old = {tensor.name for tensor in whole.initializer} | {name for node in whole.node for name in node.output}
    held = {name for node in tail for name in (*node.output, *_reads(node))}
    new = [tensor.name for tensor in graph.initializer] + [name for node in graph.node for name in node.output]
    made = {name for node in tail for name in node.output}
    names = {name: f"{name}_head" for name in new if name in held and (name in made or name not in old)}
    for node in graph.node if names else ():
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    for tensor in graph.initializer:
        tensor.name = names.get(tensor.name, tensor.name)


def _add_copies(model: ModelProto, tensors: Sequence[TensorProto]) -> dict[str, str]:
    """Add weights as they were, where the head has others of their names by now; return their new names."""
    taken = {tensor.name for tensor in model.graph.initializer}
    taken |= {name for node in model.graph.node for name in node.output}
    names: dict[str, str] = {}
    copies: list[TensorProto] = []
    for tensor in tensors:
        copy = TensorProto()
        copy.CopyFrom(tensor)
        while copy.name in taken:
            copy.name += "_whole"
        names[tensor.name] = copy.name
        copies.append(copy)
    add_constants(model, copies)
    return names
