"""Layers whose single weights can go: ops with a plain constant weight, and why others stay whole."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from onnx import NodeProto

from onnxpfp.arrays import AnyArray, Floats32, Ints
from onnxpfp.channels import Analysis, Consumer
from onnxpfp.channels.ops import facts_of
from onnxpfp.linear.describe import constant_consumer, linear_op
from onnxpfp.linear.layout import as_stored, contracted_axis
from onnxpfp.linear.ops import LinearOp, output_counts
from onnxpfp.linear.weights import weight_readers
from onnxpfp.model.attributes import Attributes
from onnxpfp.model.names import node_name

__all__ = ["WeightLayer", "WholeLayer", "weight_layers"]


@dataclass(frozen=True, slots=True, eq=False)
class WeightLayer:
    """The weights of one layer, and the ops that read them.

    Attributes:
        weight: The tensor that the ops read.
        stored: The stored tensor that it comes from.
        shape: Its shape as the ops read it.
        nodes: The nodes of the ops; all have the weight in one layout.
        ops: What they compute; every index of the contracted axis counts as a channel.
    """

    weight: str
    stored: str
    shape: tuple[int, ...]
    nodes: tuple[NodeProto, ...]
    ops: tuple[LinearOp, ...]

    @property
    def name(self) -> str:
        """The names of its nodes."""
        return ", ".join(map(node_name, self.nodes))

    @property
    def count(self) -> int:
        """Output channels."""
        return output_counts(self.ops[0])[0]

    @property
    def positions(self) -> int:
        """Most output positions of one input, over its ops."""
        return max(output_counts(op)[1] for op in self.ops)

    @property
    def outputs(self) -> Ints:
        """The output channel that each weight belongs to, in the shape of the weight."""
        op = self.ops[0]
        if facts_of(self.nodes[0]).layout == "conv_transpose":
            group = np.arange(self.shape[0]) // (self.shape[0] // op.group)
            rows = group[:, None] * self.shape[1] + np.arange(self.shape[1])
            return np.broadcast_to(rows.reshape(*rows.shape, *[1] * (len(self.shape) - 2)), self.shape)
        axis = 0 if op.kind == "conv" else 1 - contracted_axis(self.nodes[0])
        along = np.arange(self.shape[axis]).reshape([-1 if each == axis else 1 for each in range(len(self.shape))])
        return np.broadcast_to(along, self.shape)

    def as_read(self, taps: Floats32) -> AnyArray:
        """Bring numbers V (C, O/g, k) to the shape of the weight."""
        kernel = () if self.ops[0].kind == "matmul" else self.ops[0].kernel
        return as_stored(taps.reshape(*taps.shape[:2], *kernel), self.nodes[0])


@dataclass(frozen=True, slots=True)
class WholeLayer:
    """An op with multiply-adds whose weights all stay.

    Attributes:
        name: The node's name.
        op: Its type.
        reason: Why.
    """

    name: str
    op: str
    reason: str


def weight_layers(
    analysis: Analysis, kept: Mapping[str, str]
) -> tuple[tuple[WeightLayer, ...], tuple[WholeLayer, ...]]:
    """Find the layers of a model.

    Args:
        analysis: The model.
        kept: Why nodes are not to be touched, by name.

    Returns:
        The layers in question, and all other ops that multiply, each in the order of the nodes.
    """
    consumers = {consumer.node: consumer for consumer in analysis.graph.consumers}
    readers = weight_readers(analysis)
    reasons: dict[int, str] = {}
    layers: list[WeightLayer] = []
    multiplying = [
        index for index, node in enumerate(analysis.model.graph.node) if facts_of(node).mac_terms is not None
    ]
    for weight, (stored, positions) in readers.items():
        found = {index: consumers.get(index) or constant_consumer(index, analysis) for index in positions}
        why = {index: _obstacle(analysis, index, consumer, kept) for index, consumer in found.items()}
        first = next((reason for reason in why.values() if reason), "") or _disagreement(analysis, positions)
        if first:
            shared = "an op that reads the same weights stays: " if len(positions) > 1 else ""
            reasons.update((index, reason or f"{shared}{first}") for index, reason in why.items())
            continue
        ops = [_op(index, consumer, analysis) for index, consumer in found.items() if consumer is not None]
        nodes = tuple(analysis.model.graph.node[index] for index in positions)
        layers.append(WeightLayer(weight, stored, tuple(analysis.shapes.shape[weight]), nodes, tuple(ops)))
    taken = {node.output[0] for layer in layers for node in layer.nodes}
    whole = [
        WholeLayer(node_name(node), node.op_type, reasons.get(index) or _why_no_layer(analysis, node, kept))
        for index, node in ((index, analysis.model.graph.node[index]) for index in multiplying)
        if node.output[0] not in taken
    ]
    return tuple(layers), tuple(whole)


def _op(index: int, consumer: Consumer, analysis: Analysis) -> LinearOp:
    op = linear_op(f"weights {index}", consumer, analysis)
    return replace(op, channels=np.ones(len(op.channels), np.int64))


def _obstacle(analysis: Analysis, index: int, consumer: Consumer | None, kept: Mapping[str, str]) -> str:
    """Say why the weights of an op that reads a float weight stay; empty where they may go."""
    node, shapes = analysis.model.graph.node[index], analysis.shapes.shape
    if node_name(node) in kept:
        return kept[node_name(node)]
    layout = facts_of(node).layout
    if layout is None or not facts_of(node).linear:
        return f"{node.op_type} is no plain convolution or matrix product"
    if consumer is None or consumer.data_input != 0 or consumer.form in {"product", "einsum", "packed"}:
        return "its weights are no plain matrix on the right"
    if layout == "matrix" and len(shapes[node.input[1]]) != 2:
        return "its weights are no plain matrix on the right"
    if len(shapes[consumer.data]) < 2:
        return "its data are a vector"
    if any(consumer.zeros) or not math.prod(shapes[node.input[1]]):
        return "its weights are quantized, or it has none"
    return ""


def _disagreement(analysis: Analysis, positions: Sequence[int]) -> str:
    """Say why ops that share weights cannot be one layer; empty where they can."""
    nodes = [analysis.model.graph.node[index] for index in positions]
    forms = {(facts_of(n).layout, contracted_axis(n), Attributes(n).integer("group", 1)) for n in nodes}
    return "ops read its weights in different ways" if len(forms) > 1 else ""


def _why_no_layer(analysis: Analysis, node: NodeProto, kept: Mapping[str, str]) -> str:
    """Say why an op stays that reads no float weight as its second input, or one that something else reads too."""
    if node_name(node) in kept:
        return kept[node_name(node)]
    if len(node.input) > 1 and node.input[1] not in analysis.constants.names:
        return "its second operand is no constant"
    if facts_of(node).layout is None:
        return f"{node.op_type} is no plain convolution or matrix product"
    return "its weights are quantized, computed, or read by something else too"
