"""Weights that lost channels and can still be computed, from less: a low-rank product, a few rows that are repeated.

Where every index that went can be followed to what a weight is computed from, that is cut in its place. Whether the
weight then comes out as it must is seen by computing it: a norm over all channels does not, one of every filter does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from onnxpfp.arrays import Keep
from onnxpfp.channels import Analysis
from onnxpfp.channels.context import Axes
from onnxpfp.channels.file_axes import sources_behind
from onnxpfp.errors import ModelError
from onnxpfp.model.constants import Constants, stored_tensors
from onnxpfp.rewrite.slices import sliced
from onnxpfp.runtime.external_data import is_reference, numbers

__all__ = ["Recomputed", "recompute", "with_value"]

ROUNDING = 1e-5
"""Largest difference over the largest number of a weight: sums of products in another order."""
HALF_ROUNDING = 2e-3
"""The same in half precision."""


@dataclass(frozen=True, slots=True, eq=False)
class Recomputed:
    """Weights that what is left of their sources gives.

    Attributes:
        weights: Their names.
        sources: What they are computed from, cut, where it lost something.
    """

    weights: frozenset[str]
    sources: Mapping[str, TensorProto]


def recompute(stored: Mapping[str, TensorProto], analysis: Analysis, keep: Keep) -> Recomputed:
    """Find the weights of a pruned model that can be computed from less than they are.

    Args:
        stored: Stored tensors of the pruned model.
        analysis: The model as it was given, in the words in which it was pruned.
        keep: Which of its channels stay, (channels + 1,).
    """
    flat, graph = analysis.source.flat, analysis.graph
    nothing = Recomputed(frozenset(), {})
    if flat is None:
        return nothing
    held = stored_tensors(flat.graph)
    cut = [name for name in graph.stored if name not in held and name not in graph.uses and name in stored]
    cut = [name for name in cut if not all(keep[ids].all() for ids in graph.axes[name])]
    if not cut:
        return nothing
    constants = Constants.of(flat)
    good: dict[str, dict[str, TensorProto]] = {}
    bad: set[str] = set()
    for name, axes in sources_behind(analysis).items():
        if name not in cut:
            continue
        sources = {source: _cut(held[source], ids, keep) for source, ids in axes.items() if not _whole(ids, keep)}
        if _comes_out(name, sources, stored[name], flat, constants.nodes_behind(name)):
            good[name] = sources
        else:
            bad |= sources.keys()
    good = {name: sources for name, sources in good.items() if bad.isdisjoint(sources)}
    return Recomputed(
        frozenset(good), {source: tensor for sources in good.values() for source, tensor in sources.items()}
    )


def _whole(axes: Axes, keep: Keep) -> bool:
    return all(keep[ids].all() for ids in axes)


def _cut(tensor: TensorProto, axes: Axes, keep: Keep) -> TensorProto:
    return numpy_helper.from_array(np.asarray(sliced(numbers(tensor), axes, keep), order="C"), tensor.name)


def _comes_out(
    name: str, sources: Mapping[str, TensorProto], wanted: TensorProto, flat: ModelProto, nodes: Sequence[NodeProto]
) -> bool:
    """Tell whether nodes compute a weight from what is left of its sources."""
    if not sources or is_reference(wanted) or any(is_reference(tensor) for tensor in sources.values()):
        return False
    read = {i for node in nodes for i in node.input}
    initializers = [sources.get(tensor.name, tensor) for tensor in flat.graph.initializer if tensor.name in read]
    graph = helper.make_graph(
        [with_value(node, sources) for node in nodes], "weight", [], [ValueInfoProto(name=name)], initializers
    )
    part = ModelProto(ir_version=flat.ir_version, graph=graph)
    part.opset_import.extend(flat.opset_import)
    try:
        value, target = Constants.of(part).value(name), numbers(wanted)
    except ModelError:
        # A Reshape to lengths that are no longer there, for one.
        return False
    if value.shape != target.shape or value.dtype != target.dtype:
        return False
    allowed = HALF_ROUNDING if target.dtype.itemsize < 4 else ROUNDING
    apart = np.abs(value.astype(np.float64) - target.astype(np.float64)).max(initial=0.0)
    return bool(apart <= allowed * np.abs(target.astype(np.float64)).max(initial=0.0))


def with_value(node: NodeProto, tensors: Mapping[str, TensorProto]) -> NodeProto:
    """Return a Constant node with another tensor, where there is one for it; any other node as it is."""
    if node.op_type != "Constant" or node.output[0] not in tensors:
        return node
    return helper.make_node("Constant", [], list(node.output), name=node.name, value=tensors[node.output[0]])
