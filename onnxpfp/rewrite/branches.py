"""Take branches out of a file: constants stand where their last linear ops were, and their nodes go.

`onnxpfp.channels.branch_graph` says which nodes these are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, numpy_helper

from onnxpfp.arrays import Ids, Keep
from onnxpfp.channels import ChannelGraph
from onnxpfp.channels.branch_graph import SHAPING, BranchRemoval
from onnxpfp.channels.ops import facts_of, op_name
from onnxpfp.errors import VerificationError
from onnxpfp.model.attributes import Attributes
from onnxpfp.model.constants import Constants, reader_counts
from onnxpfp.model.edit import add_constants, drop_initializers, drop_nodes, drop_unread, forget_shapes

__all__ = ["drop_branches"]


def drop_branches(
    pruned: ModelProto, model: ModelProto, graph: ChannelGraph, keep: Keep, removal: BranchRemoval
) -> None:
    """Take out of a model what goes with groups that go entirely, in place.

    Args:
        pruned: The model, in which these groups have a channel each.
        model: The original.
        graph: Its channels.
        keep: Whether each channel stays.
        removal: What goes from the original.

    Raises:
        VerificationError: These groups cannot go entirely.
    """
    if removal.obstacle:
        raise VerificationError(f"a branch cannot go: {removal.obstacle}")
    nodes = {node.output[0]: node for node in pruned.graph.node}
    names = {index: node.output[0] for index, node in enumerate(model.graph.node)}
    replaced = frozenset(names[index] for index in removal.replaced)
    left = _Left(Constants.of(pruned), nodes, replaced, removal.made, graph.axes, keep)
    tensors = [numpy_helper.from_array(left.value(name), name) for name in removal.constants]
    gone = {names[index] for index in removal.gone}
    positions = [index for index, node in enumerate(pruned.graph.node) if node.output[0] in gone]
    unread = {name for index in positions for name in pruned.graph.node[index].input}
    made = {name for index in positions for name in pruned.graph.node[index].output}
    readers = reader_counts(pruned.graph)
    drop_nodes(pruned.graph, positions)
    forget_shapes(pruned.graph, made)
    drop_unread(pruned.graph, sorted(unread - made))
    _drop_listed_weights(pruned.graph, readers)
    add_constants(pruned, tensors)


def _drop_listed_weights(graph: GraphProto, before: Mapping[str, int]) -> None:
    """Drop the weights that lost all their readers and are listed among the inputs, as before IR 4, from both lists."""
    after = reader_counts(graph)
    unread = {tensor.name for tensor in graph.initializer if before[tensor.name] and not after[tensor.name]}
    unread -= {output.name for output in graph.output}
    if unread:
        drop_initializers(graph, unread)
        inputs = [info for info in graph.input if info.name not in unread]
        del graph.input[:]
        graph.input.extend(inputs)


@dataclass(frozen=True, slots=True, eq=False)
class _Left:
    """Computes what is left of branches.

    Attributes:
        constants: The constants of the pruned model.
        nodes: Its nodes, by first output.
        replaced: The outputs of linear ops that become constants.
        made: All tensors that become constants.
        axes: Channel ids of the axes of every tensor.
        keep: Whether each channel stays.
        known: Those that were computed.
    """

    constants: Constants
    nodes: Mapping[str, NodeProto]
    replaced: frozenset[str]
    made: frozenset[str]
    axes: Mapping[str, tuple[Ids, ...]]
    keep: Keep
    known: dict[str, NDArray[Any]] = field(default_factory=dict[str, NDArray[Any]])

    def value(self, name: str) -> NDArray[Any]:
        """Return a constant that stands for an activation; axes along which it does not change have length 1."""
        if name not in self.known:
            self.known[name] = self._bias(name) if name in self.replaced else self._folded(name)
        return self.known[name]

    def _bias(self, name: str) -> NDArray[Any]:
        """Return what a linear op gives where it reads zeros."""
        node, facts = self.nodes[name], facts_of(self.nodes[name])
        axes = self.axes[name]
        axis = len(axes) - 1 if facts.layout == "matrix" else 1
        shape = [int(self.keep[ids].sum()) if number == axis else 1 for number, ids in enumerate(axes)]
        position = None if facts.bias is None else facts.bias.position
        if position is None or len(node.input) <= position or not node.input[position]:
            return np.zeros(shape, self.constants.value(node.input[1]).dtype)
        bias = self.constants.value(node.input[position])
        scaled = bias * np.asarray(Attributes(node).real("beta", 1.0), bias.dtype)
        return np.broadcast_to(scaled.ravel(), (shape[axis],)).reshape(shape)

    def _folded(self, name: str) -> NDArray[Any]:
        """Return what a node makes of constants."""
        node = self.nodes[name]
        if op_name(node.op_type, node.domain) in SHAPING:
            given = self.value(node.input[0])
            return given.reshape([1] * (len(self.axes[name]) - 1) + [given.size])
        return self.constants.apply(node, {read: self.value(read) for read in node.input if read in self.made})
