"""Replace every If whose condition is the same in all runs by the nodes of the branch that it takes.

Exporters write `squeeze` as an If on the length of an axis. Tensors that a subgraph reads cannot be pruned; once the
nodes of the branch stand in the main graph, they can.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from onnx import GraphProto, ModelProto, NodeProto, helper

from onnxpfp.channels import ChannelGraph
from onnxpfp.channels.symbolic import Const, evaluate, leaves
from onnxpfp.model.constants import subgraphs
from onnxpfp.model.edit import drop_unread, forget_shapes, replace_nodes
from onnxpfp.model.shapes import static_lengths

__all__ = ["inline_constant_if"]


def inline_constant_if(model: ModelProto, graph: ChannelGraph) -> ModelProto | None:
    """Replace every If of the main graph whose condition never changes.

    Args:
        model: The model; it is not changed.
        graph: Its channels; the conditions are among its known values.

    Returns:
        A model that computes the same; None where there is no such If.
    """
    conditional = [node for node in model.graph.node if node.op_type == "If" and node.input[0] in graph.values]
    if not conditional:
        return None
    static = static_lengths(model)
    taken = {node.output[0]: branch for node in conditional if (branch := _branch(node, graph, static)) is not None}
    replaced = [node for node in conditional if node.output[0] in taken]
    if not replaced:
        return None
    copy = ModelProto()
    copy.CopyFrom(model)
    nodes: list[NodeProto] = []
    for node in copy.graph.node:
        inlined = node.op_type == "If" and node.output[0] in taken
        nodes += _inlined(node, taken[node.output[0]]) if inlined else [node]
    replace_nodes(copy.graph, nodes)
    drop_unread(copy.graph, [node.input[0] for node in replaced])
    forget_shapes(copy.graph, {name for node in replaced for name in node.output})
    return copy


def _branch(node: NodeProto, graph: ChannelGraph, static: Mapping[tuple[str, int], int]) -> GraphProto | None:
    """Return the branch that is taken in every run, or None where that may change."""
    entry = graph.values[node.input[0]].ravel()[0]
    for leaf in leaves(entry):
        if not isinstance(leaf, Const) and not leaf.known and (leaf.tensor, leaf.axis) not in static:
            return None
    branch = "then_branch" if evaluate(entry, lambda leaf: leaf.value) else "else_branch"
    return next(attribute.g for attribute in node.attribute if attribute.name == branch)


def _inlined(node: NodeProto, branch: GraphProto) -> list[NodeProto]:
    """Return the nodes of a branch under names of their own; its outputs get those of the If."""
    inner = {name for n in branch.node for name in n.output if name} | {t.name for t in branch.initializer}
    names = {name: f"{node.output[0]}/{name}" for name in inner}
    made = {name for n in branch.node for name in n.output}
    nodes = [helper.make_node("Constant", [], [names[t.name]], value=t) for t in branch.initializer]
    direct: list[NodeProto] = []
    for result, output in zip(branch.output, node.output, strict=True):
        if result.name in made and names[result.name] not in node.output:
            names[result.name] = output
        else:
            direct.append(helper.make_node("Identity", [names.get(result.name, result.name)], [output]))
    copies = [_renamed(n, names.get) for n in branch.node]
    return [*nodes, *copies, *direct]


def _renamed(node: NodeProto, new: Callable[[str, str], str]) -> NodeProto:
    """Copy a node with other names for its tensors, and inside its subgraphs for what those capture."""
    copy = NodeProto()
    copy.CopyFrom(node)
    copy.input[:] = [new(name, name) for name in node.input]
    copy.output[:] = [new(name, name) for name in node.output]
    for graph in subgraphs(copy):
        inner = {name for n in graph.node for name in n.output} | {info.name for info in graph.input}
        inner |= {tensor.name for tensor in graph.initializer}
        _rename_inside(graph, lambda name, other, inner=inner: other if name in inner else new(name, other))
    return copy


def _rename_inside(graph: GraphProto, new: Callable[[str, str], str]) -> None:
    nodes: Iterable[NodeProto] = [_renamed(node, new) for node in graph.node]
    replace_nodes(graph, nodes)
    for output in graph.output:
        output.name = new(output.name, output.name)
