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
from onnxpfp.model.constants import Constants, stored_tensors
from onnxpfp.model.shapes import concrete_shapes

__all__ = ["FileAxes", "file_axes"]


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
    graph, source = analysis.graph, analysis.source
    given = source.rewritten_from or source.model
    held = stored_tensors(given.graph).keys() | {tensor.values.name for tensor in given.graph.sparse_initializer}
    weights = list(graph.stored_axes())
    stored = [(name, axes) for name, axes in weights if name in held]
    apart = [(name, axes) for name, axes in weights if name not in held]
    sources = _sources({name: axes for name, axes in apart if name not in graph.uses}, analysis, dict(stored))
    followed = {
        name for name, axes in apart if name in sources and _present([axes]) <= _present(sources[name].values())
    }
    behind = {name: axes for weight in sorted(followed) for name, axes in sources[weight].items()}
    return FileAxes(
        (*stored, *((name, axes) for name, axes in behind.items() if name not in dict(stored))),
        tuple((name, axes) for name, axes in apart if name not in followed),
        tuple((name, axes) for name, axes in apart if name in followed),
    )


def _present(many: Iterable[Axes]) -> set[int]:
    """Return the channels on some axes."""
    return {int(channel) for axes in many for ids in axes for channel in np.unique(ids) if channel}


def _sources(
    computed: Mapping[str, Axes], analysis: Analysis, stored: Mapping[str, Axes]
) -> dict[str, dict[str, Axes]]:
    """Find what weights are computed from.

    Args:
        computed: The weights, and the channels of their axes.
        analysis: The model.
        stored: Channels of the tensors that are read as they are, too; what says something else is left out.

    Returns:
        By weight, the stored tensors behind it and the channels of their axes: 0 where an index is none of one channel.
    """
    flat = analysis.source.flat
    constants = None if flat is None else Constants.of(flat)
    if flat is None or constants is None or constants.names.isdisjoint(computed):
        return {}
    nodes = {name: constants.nodes_behind(name) for name in computed if name in constants.names}
    labelled = _walk(flat, nodes)
    channel = _channels(labelled, {name: computed[name] for name in nodes})
    axes = {
        name: tuple(channel[labels] for labels in labelled.axes[name])
        for name in constants.weights
        if name in labelled.axes
    }
    agreed = {
        name: ids for name, ids in axes.items() if name not in stored or all(map(np.array_equal, ids, stored[name]))
    }
    return {
        weight: {read: agreed[read] for node in behind for read in (*node.input, *node.output) if read in agreed}
        for weight, behind in nodes.items()
    }


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
    return walk(WalkInput.of(part, concrete_shapes(part, {}), Constants.of(part)), {})


def _channels(labelled: Walk, weights: Mapping[str, Axes]) -> Ids:
    """Give every label the channel of the indices of weights that have it, 0 where that are several or none."""
    component = labelled.labels.components().of_label
    channel = np.zeros(component.size, np.int64)
    several = np.zeros(component.size, np.bool_)
    for name, axes in weights.items():
        for labels, ids in zip(labelled.axes[name], axes, strict=True):
            # Label 0 is no index in particular.
            parts, own = component[labels[labels != 0]], ids[labels != 0]
            several[parts[(channel[parts] != 0) & (channel[parts] != own)]] = True
            channel[parts] = own
            several[parts[channel[parts] != own]] = True
    of_label = np.where(several, 0, channel)[component]
    of_label[0] = 0
    return of_label
