"""Give back what was put into other words for pruning, and what no removal then passed through.

    Computed weight     A weight that the graph computes is stored, so that its channels can go. Where it comes out as
                        it went in, the file's own nodes compute it again.
    Channel shuffle     Written as a Gather; where all its channels stay, it is Reshape, Transpose, Reshape again.
    Equal Split         Its sizes are written out; where all its channels stay, they go again.
    Cut product         A computed weight that lost channels is computed from what is left of its sources, where that
                        gives it and takes less (`rewrite/recompute.py`).
    Sparse constant     It is stored as a dense one; where nothing of it went, it is sparse again (`model/plain.py`).
    Local function      Its body stands in the place of its call; where that makes the file larger and nothing in it
                        changed, it is called again (`model/calls.py`).

What these nodes read is still there, or comes back with them. Where a constant behind them was cut for another reader,
they get a copy of it as it was, if that takes less than what it replaces.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from onnx import ModelProto, NodeProto, TensorProto

from onnxpfp.arrays import Keep
from onnxpfp.channels import Analysis
from onnxpfp.model.calls import with_calls
from onnxpfp.model.constants import all_names
from onnxpfp.model.edit import add_constants, drop_initializers, drop_unread, replace_nodes
from onnxpfp.model.index import ModelIndex
from onnxpfp.model.load import LoadedModel
from onnxpfp.model.names import free_name
from onnxpfp.model.plain import with_own_constants
from onnxpfp.rewrite.recompute import recompute, with_value
from onnxpfp.rewrite.returning import ReturningPart, ReturnSearch
from onnxpfp.runtime.external_data import size_of

__all__ = ["call_again", "restore"]


def restore(pruned: ModelProto, analysis: Analysis, keep: Keep) -> ModelProto:
    """Let a pruned model compute what was not touched as the file did.

    Args:
        pruned: The pruned model; it is not changed.
        analysis: The model as it was given, in the words in which it was pruned.
        keep: Which of its channels stay, (channels + 1,).

    Returns:
        A model that computes the same; the pruned one itself where there is nothing to give back.
    """
    flat = analysis.source.flat
    if flat is None:
        return pruned
    search = ReturnSearch.of(pruned, flat, analysis, keep)
    parts = search.parts()
    recomputed = recompute(search.stored, analysis, keep)
    if recomputed.weights:
        search = replace(search, sources=recomputed.sources, recomputed=recomputed.weights, known={})
        cut = [part for part in search.parts() if search.cuts(part) and not any(map(part.meets, parts))]
        used = {name for part in cut for name in part.tensors}
        search = replace(search, sources={name: t for name, t in recomputed.sources.items() if name in used})
        parts += cut
    restored = _with_parts(pruned, search, parts) if parts else pruned
    return with_own_constants(restored, analysis.source.rewritten_from or restored)


def call_again(pruned: ModelProto, source: LoadedModel) -> ModelProto:
    """Let a pruned network call the local functions of the file in which nothing changed, where that makes it smaller.

    Args:
        pruned: The network, its bodies in place; it is not changed.
        source: The file.

    Returns:
        A model that computes the same; the pruned one itself where nothing is called again.
    """
    given = source.rewritten_from
    if given is None or source.flat is None or not given.functions or size_of(pruned) <= source.size_bytes:
        return pruned
    return with_calls(pruned, given, source.flat)


def _with_parts(pruned: ModelProto, search: ReturnSearch, parts: Sequence[ReturningPart]) -> ModelProto:
    """Put nodes of the original into a copy of the pruned model, where they stood among the others."""
    flat_nodes = search.flat.graph.node
    outputs = {name for part in parts for name in part.outputs}
    positions = sorted({position for part in parts for position in part.nodes})
    computed = [name for position in positions for name in flat_nodes[position].output if name]
    # A Constant node is among the nodes.
    initializers = search.flat_stored.keys() - search.flat_index.producers.keys()
    missing = sorted(initializers & {name for part in parts for name in part.constants})
    copied = sorted(initializers & {name for part in parts for name in part.copies})
    names = _names_for([*(name for name in computed if name not in outputs), *copied], search)
    model = ModelProto()
    model.CopyFrom(pruned)
    unread = [name for node in model.graph.node if not outputs.isdisjoint(node.output) for name in node.input]
    returning = [
        (position, _renamed(with_value(flat_nodes[position], search.sources), names)) for position in positions
    ]
    left = [node for node in model.graph.node if outputs.isdisjoint(node.output)]
    drop_initializers(model.graph, outputs)
    replace_nodes(model.graph, _merged(left, search.flat_index, returning))
    drop_unread(model.graph, unread)
    add_constants(model, [_copy(search.tensor(name), names.get(name, name)) for name in (*missing, *copied)])
    shrunk = {position for part in parts if search.cuts(part) for position in part.nodes}
    same = {name for position in set(positions) - shrunk for name in flat_nodes[position].output}
    _record_shapes(model, search.flat, same - names.keys())
    return model


def _names_for(wanted: Sequence[str], search: ReturnSearch) -> dict[str, str]:
    """Give new names to what returns and has one that the pruned model uses for something else."""
    used = all_names(search.index.model.graph)
    taken = used | all_names(search.flat.graph)
    return {name: free_name(name, taken) for name in wanted if name in used}


def _renamed(node: NodeProto, names: Mapping[str, str]) -> NodeProto:
    copy = NodeProto()
    copy.CopyFrom(node)
    copy.input[:] = [names.get(name, name) for name in node.input]
    copy.output[:] = [names.get(name, name) for name in node.output]
    return copy


def _copy(tensor: TensorProto, name: str) -> TensorProto:
    copy = TensorProto()
    copy.CopyFrom(tensor)
    copy.name = name
    return copy


def _merged(
    left: Sequence[NodeProto], flat_index: ModelIndex, returning: Sequence[tuple[int, NodeProto]]
) -> list[NodeProto]:
    """Sort nodes of the original in among those that are left, before the first that came after them.

    Nodes that the original does not have stand with the one behind them.
    """
    nodes: list[NodeProto] = []
    waiting, place = list(returning), len(flat_index.model.graph.node)
    for node in reversed(left):
        place = min([place, *(flat_index.producers[name] for name in node.output if name in flat_index.producers)])
        while waiting and waiting[-1][0] > place:
            nodes.append(waiting.pop()[1])
        nodes.append(node)
    return [*(node for _, node in waiting), *reversed(nodes)]


def _record_shapes(model: ModelProto, flat: ModelProto, names: set[str]) -> None:
    """Record the shapes of tensors that are back, as the original does."""
    known = {info.name for info in (*model.graph.value_info, *model.graph.output)}
    model.graph.value_info.extend(
        info for info in flat.graph.value_info if info.name in names and info.name not in known
    )
