"""The layers that can become two: linear ops with constant weights, what each scheme costs, and why others stay."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from onnx import NodeProto

from onnxpfp.arrays import AnyArray, Floats
from onnxpfp.channels import Analysis, Consumer
from onnxpfp.channels.ops import facts_of
from onnxpfp.linear.bias import stored_bias
from onnxpfp.linear.describe import constant_consumer, linear_op
from onnxpfp.linear.layout import contracted_axis
from onnxpfp.linear.ops import LinearOp
from onnxpfp.linear.weights import weight_readers
from onnxpfp.model.attributes import Attributes
from onnxpfp.model.names import node_name
from onnxpfp.model.opset import standard_opset

__all__ = ["LowRankLayer", "LowRankUse", "Scheme", "StayingLayer", "low_rank_layers", "scheme_of"]

Scheme = Literal["channel", "spatial", "auto"]
"""How kernels are divided: all axes in the first op, or some in each; auto takes the cheaper one at equal loss."""
OPS = frozenset({"Conv", "Gemm", "MatMul"})
OPTIONAL_C = 11
"""First opset in which a Gemm needs no third input."""


@dataclass(frozen=True, slots=True, eq=False)
class LowRankUse:
    """One op that reads the weights of a layer.

    Attributes:
        name: The node's name.
        op: The op.
        output: Name of its output.
        consumer: It as a consumer of channels.
        bias: What is added to its outputs, (O,); None where that cannot be changed.
        added_at: The input that holds it: first output of the node, and position. It is the op's own, or that of the
            Add that alone reads a MatMul.
        macs: Its multiply-adds in one run.
    """

    name: str
    op: LinearOp
    output: str
    consumer: Consumer
    bias: Floats | None
    added_at: tuple[str, int]
    macs: int

    @property
    def columns_key(self) -> tuple[object, ...]:
        """The key of the op's columns: ops that agree in it have the same."""
        op = self.op
        return op.data, op.axis, op.kind, op.kernel, op.group, op.attributes

    def macs_of_rank(self, cut: int) -> int:
        """Return the multiply-adds that one rank takes.

        Args:
            cut: How many of the kernel's axes the first op has.
        """
        op = self.op
        return op.data_shape[op.axis] * self.first_macs_of_channel(cut) + self.outputs * self.second_macs_of_output(cut)

    @property
    def outputs(self) -> int:
        """Channels of its output."""
        assert self.op.weight is not None
        return self.op.weight.shape[1 if self.op.kind == "matmul" else 0]

    def first_macs_of_channel(self, cut: int) -> int:
        """Return the multiply-adds of the first op that one rank takes for one channel that is read."""
        op = self.op
        if op.kind == "matmul":
            return math.prod(op.output_shape) // self.outputs
        between = math.prod((*op.output_shape[2:][:cut], *op.data_shape[2:][cut:]))
        return op.data_shape[0] * math.prod(op.kernel[:cut]) * between

    def second_macs_of_output(self, cut: int) -> int:
        """Return the multiply-adds of the second op that one rank takes for one output."""
        op = self.op
        if op.kind == "matmul":
            return math.prod(op.output_shape) // self.outputs
        return op.data_shape[0] * math.prod(op.kernel[cut:]) * math.prod(op.output_shape[2:])


@dataclass(frozen=True, slots=True, eq=False)
class LowRankLayer:
    """Weights that can be factored, and the ops that read them.

    Attributes:
        weight: The tensor that the ops read.
        kernel: Spatial shape of the kernel; empty for a matrix product.
        cuts: The schemes in question: how many of the kernel's axes the first op has.
        transposed: Whether the ops read the weights as (outputs, inputs) although they are a matrix.
        uses: The ops, one or several.
    """

    weight: str
    kernel: tuple[int, ...]
    cuts: tuple[int, ...]
    transposed: bool
    uses: tuple[LowRankUse, ...]

    @property
    def name(self) -> str:
        """The name of its first op."""
        return self.uses[0].name

    @property
    def macs(self) -> int:
        """Multiply-adds of all its ops in one run."""
        return sum(use.macs for use in self.uses)

    def macs_of_rank(self, cut: int) -> int:
        """Return the multiply-adds that one rank takes in all its ops."""
        return sum(use.macs_of_rank(cut) for use in self.uses)

    def weights(self, analysis: Analysis) -> Floats:
        """Return the weights by convolution group, (g, o, c, *k); those of a matrix product (1, o, c)."""
        return self.bank(analysis.constants.value(self.weight), self.uses[0].op.group)

    def bank(self, weight: AnyArray, groups: int) -> Floats:
        """Bring weights that the ops read to the form of `weights`.

        Args:
            weight: The weights; fewer channels than the layer has may be left of them.
            groups: Convolution groups.
        """
        weight = np.asarray(weight, np.float64)
        if self.uses[0].op.kind == "matmul":
            return (weight if self.transposed else weight.T)[None]
        return weight.reshape(groups, -1, *weight.shape[1:])

    def as_read(self, bank: AnyArray) -> AnyArray:
        """Bring a filter bank (g, o, c, *k) to the form in which the ops read it, the inverse of `bank`."""
        if self.uses[0].op.kind == "matmul":
            return bank[0] if self.transposed else bank[0].T
        return bank.reshape(-1, *bank.shape[2:])


@dataclass(frozen=True, slots=True)
class StayingLayer:
    """An op with multiply-adds that stays as it is.

    Attributes:
        name: The node's name.
        op: Its type.
        macs: Its multiply-adds in one run.
        reason: Why it stays.
    """

    name: str
    op: str
    macs: int
    reason: str


def scheme_of(layer: LowRankLayer, cut: int) -> Literal["channel", "spatial"]:
    """Return what a cut is called."""
    return "channel" if cut == len(layer.kernel) else "spatial"


def low_rank_layers(
    analysis: Analysis, scheme: Scheme, kept: Mapping[str, str]
) -> tuple[tuple[LowRankLayer, ...], tuple[StayingLayer, ...]]:
    """Find the layers of a model.

    Args:
        analysis: The model.
        scheme: The schemes in question.
        kept: Why nodes are not to be touched, by name.

    Returns:
        The layers that may be factored, and all other ops that multiply, each in the order of the nodes.
    """
    finder = _Finder.of(analysis, scheme, kept)
    layers: list[LowRankLayer] = []
    for positions in finder.readers.values():
        found = finder.layer(positions)
        if found is not None:
            layers.append(found)
    factored = {use.consumer.node for layer in layers for use in layer.uses}
    staying = [
        StayingLayer(finder.name(index), analysis.model.graph.node[index].op_type, macs, finder.reason(index))
        for index, macs in finder.macs.items()
        if index not in factored
    ]
    return tuple(layers), tuple(staying)


@dataclass(frozen=True, slots=True, eq=False)
class _Finder:
    """Looks at all ops of a model that multiply.

    Attributes:
        analysis: The model.
        scheme: The schemes in question.
        kept: Why nodes are not to be touched, by name.
        macs: Multiply-adds by the position of the node.
        readers: The nodes that read a weight which nothing else reads, by weight.
        consumers: Those of channels that could go, by node.
        reasons: Why nodes stay that have been looked at.
    """

    analysis: Analysis
    scheme: Scheme
    kept: Mapping[str, str]
    macs: Mapping[int, int]
    readers: Mapping[str, tuple[int, ...]]
    consumers: Mapping[int, Consumer]
    reasons: dict[int, str]

    @classmethod
    def of(cls, analysis: Analysis, scheme: Scheme, kept: Mapping[str, str]) -> _Finder:
        macs = _macs(analysis)
        readers = {
            name: positions
            for name, (_, positions) in weight_readers(analysis).items()
            if macs.keys() >= set(positions)
        }
        consumers = {consumer.node: consumer for consumer in analysis.graph.consumers}
        return cls(analysis, scheme, kept, macs, readers, consumers, {})

    def name(self, index: int) -> str:
        """Return the name of a node."""
        return node_name(self.analysis.model.graph.node[index])

    def reason(self, index: int) -> str:
        """Say why a node stays."""
        return self.reasons.get(index) or self._obstacle(index)

    def layer(self, positions: Sequence[int]) -> LowRankLayer | None:
        """Return what reads a weight as a layer; None where it stays."""
        obstacles = [(index, self._obstacle(index)) for index in positions]
        reason = next((why for _, why in obstacles if why), "") or self._disagreement(positions)
        if reason:
            shared = "its weights are those of an op that stays: " if len(positions) > 1 else ""
            self.reasons.update((index, why or f"{shared}{reason}") for index, why in obstacles)
            return None
        uses = tuple(self._use(index, alone=len(positions) == 1) for index in positions)
        first = uses[0]
        kernel = () if first.op.kind == "matmul" else first.op.kernel
        cuts = tuple(_cuts(kernel, self.scheme))
        if not cuts:
            self.reasons.update(
                dict.fromkeys(positions, "its kernel has taps along one axis at most: no spatial scheme")
            )
            return None
        transposed = first.op.kind == "matmul" and contracted_axis(self._node(positions[0])) == 1
        return LowRankLayer(first.consumer.weight, kernel, cuts, transposed, uses)

    def _node(self, index: int) -> NodeProto:
        return self.analysis.model.graph.node[index]

    def _consumer(self, index: int) -> Consumer | None:
        return self.consumers.get(index) or constant_consumer(index, self.analysis)

    def _obstacle(self, index: int) -> str:
        """Say why an op cannot be factored; empty where it can."""
        node, shapes = self._node(index), self.analysis.shapes.shape
        if node_name(node) in self.kept:
            return self.kept[node_name(node)]
        if node.op_type not in OPS or not facts_of(node).linear:
            return f"{node.op_type} is no Conv, Gemm or MatMul"
        if node.input[1] not in self.analysis.constants.names:
            return "its second operand is no constant"
        consumer = self._consumer(index)
        if consumer is None or consumer.data_input != 0 or consumer.form == "product":
            return "its weights are no plain matrix on the right"
        if node.input[1] not in self.readers:
            return "its weights are quantized, computed, or read by another op too"
        matrix = consumer.form == "matrix"
        if matrix and len(shapes[consumer.weight]) != 2:
            return "its weights are no plain matrix on the right"
        if len(shapes[consumer.data]) < 2:
            return "its data are a vector"
        if not matrix and Attributes(node).integer("group", 1) == shapes[consumer.data][1] > 1:
            return "it is depthwise: a filter reads one channel"
        old = standard_opset(self.analysis.model) < OPTIONAL_C
        if node.op_type == "Gemm" and old and Attributes(node).integer("transA", 0):
            return "it reads its data transposed, in an opset before 11"
        return ""

    def _disagreement(self, positions: Sequence[int]) -> str:
        """Say why ops that share weights cannot share factors; empty where they can."""
        nodes = [self._node(index) for index in positions]
        forms = {(facts_of(n).layout, contracted_axis(n), Attributes(n).integer("group", 1)) for n in nodes}
        return "ops read its weights in different ways" if len(forms) > 1 else ""

    def _use(self, index: int, *, alone: bool) -> LowRankUse:
        node, consumer = self._node(index), self._consumer(index)
        assert consumer is not None
        op = linear_op(f"low rank {index}", consumer, self.analysis)
        use = LowRankUse(node_name(node), op, node.output[0], consumer, None, ("", 0), self.macs[index])
        if not alone:
            return use
        bias, added_at = self._bias(node, use.outputs)
        return replace(use, bias=bias, added_at=added_at)

    def _bias(self, node: NodeProto, outputs: int) -> tuple[Floats | None, tuple[str, int]]:
        """Return what is added to the outputs of an op, and the input that holds it; None where it cannot change."""
        options, facts = Attributes(node), facts_of(node)
        if facts.bias is not None:
            plain = options.real("alpha", 1.0) == options.real("beta", 1.0) == 1.0
            bias = stored_bias(node, self.analysis.constants, outputs) if plain else None
            return bias, (node.output[0], facts.bias.position)
        index, constants = self.analysis.index, self.analysis.constants
        use = index.only_use(node.output[0])
        follower = None if use is None else index.model.graph.node[use[0]]
        if use is None or follower is None or follower.op_type != "Add" or node_name(follower) in self.kept:
            return None, ("", 0)
        other = follower.input[1 - use[1]]
        value = constants.value(other) if other in constants.names else np.zeros(())
        if value.shape[-1:] != (outputs,) or value.size != outputs:
            return None, ("", 0)
        return value.astype(np.float64).ravel(), (follower.output[0], 1 - use[1])


def _cuts(kernel: Sequence[int], scheme: Scheme) -> Iterator[int]:
    """Yield the cuts of a scheme; a spatial one leaves several taps on both sides."""
    for cut in range(1, len(kernel)):
        if scheme != "channel" and math.prod(kernel[:cut]) > 1 and math.prod(kernel[cut:]) > 1:
            yield cut
    if scheme != "spatial":
        yield len(kernel)


def _macs(analysis: Analysis) -> dict[int, int]:
    """Return the multiply-adds of every node that has some, by its position."""
    shapes = analysis.shapes.shape
    rank = {name: len(shape) for name, shape in shapes.items()}
    macs: dict[int, int] = {}
    for index, node in enumerate(analysis.model.graph.node):
        terms = facts_of(node).mac_terms
        if terms is not None:
            macs[index] = sum(math.prod(shapes[name][axis] for name, axis in term) for term in terms(node, rank))
    return macs
