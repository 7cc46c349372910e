"""The channels of what the file itself stores, where weights are computed from that.

A weight that the graph computes (a base weight plus a low-rank product, a normalised one) is stored before anything is
analysed, so its channels are known by the axes of a tensor that the file does not have. The nodes that compute it are
walked by the same rules as any others: an axis of what they read follows an axis of the weight where both have the same
labels.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from onnx import ModelProto, NodeProto, ValueInfoProto, helper

from onnxpfp.arrays import Ids
from onnxpfp.channels.analysis import Analysis
from onnxpfp.channels.context import Axes
from onnxpfp.channels.walk import Walk, walk
from onnxpfp.channels.walk_input import WalkInput
from onnxpfp.model.constants import Constants
from onnxpfp.model.shapes import concrete_shapes

__all__ = ["FileAxes", "file_axes", "sources_behind"]


@dataclass(frozen=True, slots=True, eq=False)
class FileAxes:
    """Channel ids of the axes of weights, by the names that the file has for them.

    Attributes:
        stored: Tensors that the file stores; one can stand there several times, with the axes of each use.
        computed: Weights that it does not store under a name of its main graph, and that `stored` does not tell all
            about: those that the graph computes along axes that cannot be followed, and constants of local functions
            and of branches.
        followed: Weights that the graph computes, and about which `stored` tells everything.
    """

    stored: tuple[tuple[str, Axes], ...]
    computed: tuple[tuple[str, Axes], ...]
    followed: tuple[tuple[str, Axes], ...]


def file_axes(analysis: Analysis) -> FileAxes:
    """Find the channels of everything that the file stores."""
    weights = list(analysis.graph.stored_axes())
    held = _held(analysis)
    stored = [(name, axes) for name, axes in weights if name in held]
    apart = [(name, axes) for name, axes in weights if name not in held]
    sources = sources_behind(analysis)
    read = {name for name, _ in stored}
    behind = {name: axes for tensors in sources.values() for name, axes in tensors.items() if name not in read}
    return FileAxes(
        (*stored, *behind.items()),
        tuple((name, axes) for name, axes in apart if name not in sources),
        tuple((name, axes) for name, axes in apart if name in sources),
    )


def _held(analysis: Analysis) -> set[str]:
    """Return the names of the tensors that the file stores in its main graph."""
    graph = analysis.source.given.graph
    names = {tensor.name for tensor in graph.initializer} | {t.values.name for t in graph.sparse_initializer}
    return names | {node.output[0] for node in graph.node if node.op_type == "Constant"}


def sources_behind(analysis: Analysis) -> dict[str, dict[str, Axes]]:
    """Find what weights are computed from.

    Returns:
        By weight whose channels can all be followed, the stored tensors behind it and the channels of their axes; 0
        where an index is that of no channel, or of several.
    """
    graph, held = analysis.graph, _held(analysis)
    computed = {name: graph.axes[name] for name in graph.stored if name not in held and name not in graph.uses}
    flat = analysis.source.flat
    if flat is None or not computed:
        return {}
    constants = Constants.of(flat)
    nodes = {name: constants.nodes_behind(name) for name in computed if name in constants.names}
    nodes = {name: behind for name, behind in nodes.items() if any(node.op_type != "Constant" for node in behind)}
    if not nodes:
        return {}
    labelled = _walk(flat, nodes)
    channel = _channels(labelled, {name: computed[name] for name in nodes})
    read = {name: graph.axes[name] for name in graph.stored if name in held and name not in graph.uses}
    axes: dict[str, Axes] = {}
    for name in constants.weights:
        if name in labelled.axes and name in held and name not in graph.uses:
            ids = tuple(channel[labels] for labels in labelled.axes[name])
            # What is read as it is, too, has channels of its own.
            if name not in read or all(map(np.array_equal, ids, read[name])):
                axes[name] = ids
    sources = {
        weight: {name: axes[name] for node in behind for name in (*node.input, *node.output) if name in axes}
        for weight, behind in nodes.items()
    }
    return {weight: some for weight, some in sources.items() if _present([computed[weight]]) <= _present(some.values())}


def _present(many: Iterable[Axes]) -> set[int]:
    """Return the channels on some axes."""
    return {int(channel) for axes in many for ids in axes for channel in np.unique(ids) if channel}


def _walk(flat: ModelProto, nodes: Mapping[str, Sequence[NodeProto]]) -> Walk:
    """Label the nodes that compute some weights."""
    wanted = {node.output[0] for behind in nodes.values() for node in behind}
    computing = [node for node in flat.graph.node if node.output[0] in wanted]
    read = {name for node in computing for name in node.input}
    initializers = [tensor for tensor in flat.graph.initializer if tensor.name in read]
    outputs = [ValueInfoProto(name=name) for name in nodes]
    part = ModelProto(
        ir_version=flat.ir_version, graph=helper.make_graph(computing, "weights", [], outputs, initializers)
    )
    part.opset_import.extend(flat.opset_import)
    return walk(WalkInput.of(part, concrete_shapes(part, {}), Constants.of(part), {}), {})


def _channels(labelled: Walk, weights: Mapping[str, Axes]) -> Ids:
    """Give every label the channel of the indices of weights that have it, 0 where that are several or none."""
    component = labelled.labels.components().of_label
    unknown = -1
    channel = np.full(component.size, unknown, np.int64)
    several = np.zeros(component.size, np.bool_)
    for name, axes in weights.items():
        for labels, ids in zip(labelled.axes[name], axes, strict=True):
            # Label 0 is no index in particular.
            parts, own = component[labels[labels != 0]], ids[labels != 0]
            several[parts[(channel[parts] != unknown) & (channel[parts] != own)]] = True
            channel[parts] = own
            several[parts[channel[parts] != own]] = True
    of_label = np.where(several | (channel == unknown), 0, channel)[component]
    of_label[0] = 0
    return of_label
