"""Chains of a producer, what acts on each of its outputs by itself, and the linear ops that read what comes out.

Between a producer and its consumers may stand element-wise ops (several of one tensor, as x Sigmoid(x), too), and
depthwise convolutions with such ops before and behind. Nothing else may read any of the tensors between: then the
producer's weights reach the network through these consumers alone.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from onnx import NodeProto, TensorProto

from onnxpfp.arrays import Keep
from onnxpfp.channels import Analysis
from onnxpfp.channels.ops.elementwise import UNARY
from onnxpfp.model.attributes import Attributes
from onnxpfp.refit.layers import RefitLayer

__all__ = ["Chain", "Link", "joint_chains"]

POINTWISE = frozenset(
    (*UNARY, "Add", "BatchNormalization", "Clip", "Div", "Max", "Mean", "Min", "Mul", "PRelu", "Pow", "Sub", "Sum")
)
"""Ops that act on every number by itself, or by its channel where their constants have one number for each."""


@dataclass(frozen=True, slots=True, eq=False)
class Link:
    """Element-wise ops from a tensor to another.

    Attributes:
        first: The tensor that they read.
        last: The only one of theirs that other ops read; the first itself where there are no such ops.
        made: What they make.
    """

    first: str
    last: str
    made: frozenset[str]


@dataclass(frozen=True, slots=True, eq=False)
class Chain:
    """A producer and its consumers.

    Attributes:
        producer: The producer.
        links: Element-wise ops between: the first read the producer, those behind a depthwise convolution that.
        depthwise: The depthwise convolutions between the links, one fewer than there are links.
        consumers: The linear ops that read what the last link makes.
    """

    producer: RefitLayer
    links: tuple[Link, ...]
    depthwise: tuple[RefitLayer, ...]
    consumers: tuple[RefitLayer, ...]

    @property
    def layers(self) -> tuple[RefitLayer, ...]:
        """All of its linear ops."""
        return (self.producer, *self.depthwise, *self.consumers)

    @property
    def tensors(self) -> frozenset[str]:
        """What the producer reads, and all that is made up to what the consumers read."""
        made = (layer.output for layer in (self.producer, *self.depthwise))
        return frozenset({self.producer.consumer.data, *made}.union(*(link.made for link in self.links)))


@dataclass(frozen=True, slots=True, eq=False)
class _Search:
    """Looks for chains in a network.

    Attributes:
        analysis: The network.
        layers: Its linear ops that are refitted, by output.
        keep: Whether each channel stays.
    """

    analysis: Analysis
    layers: Mapping[str, RefitLayer]
    keep: Keep

    def chain(self, producer: RefitLayer) -> Chain | None:
        """Return the longest chain of a producer; None where something else reads what lies between."""
        if not self._single(producer.output) or producer.axis == 0 or producer.consumer.data_axis == 0:
            return None
        links: list[Link] = []
        depthwise: list[RefitLayer] = []
        chain, first = None, producer
        while (found := self._link(first)) is not None:
            link, consumers = found
            links.append(link)
            if all(consumer.axis != 0 for consumer in consumers):
                chain = Chain(producer, tuple(links), tuple(depthwise), tuple(consumers))
            if len(consumers) != 1 or not self._depthwise(consumers[0]):
                break
            first = consumers[0]
            depthwise.append(first)
        return chain

    def _link(self, first: RefitLayer) -> tuple[Link, list[RefitLayer]] | None:
        """Follow an op's output through element-wise ops up to the linear ops that read what comes out."""
        index = self.analysis.index
        shape, made = self.analysis.shapes.shape[first.output], {first.output}
        consumers: list[RefitLayer] = []
        waiting, seen = [first.output], set[int]()
        while waiting:
            name = waiting.pop()
            if name in index.read_elsewhere or not index.uses.get(name):
                return None
            for number, _ in index.uses[name]:
                node = index.model.graph.node[number]
                if number in seen:
                    continue
                seen.add(number)
                consumer = self.layers.get(node.output[0])
                if consumer is not None and (consumer.consumer.data, consumer.consumer.data_axis) == (name, first.axis):
                    consumers.append(consumer)
                elif self._pointwise(node, first.axis, shape):
                    made.add(node.output[0])
                    waiting.append(node.output[0])
                else:
                    return None
        constants = self.analysis.constants.names
        nodes = [index.producer(name) for name in made - {first.output}]
        if any(not {name for name in node.input if name} <= made | constants for node in nodes if node is not None):
            return None
        ends = {consumer.consumer.data for consumer in consumers}
        if len(ends) != 1 or not consumers:
            return None
        return Link(first.output, ends.pop(), frozenset(made - {first.output})), consumers

    def _pointwise(self, node: NodeProto, axis: int, shape: Sequence[int]) -> bool:
        """Tell whether a node acts on each number of a tensor by itself, given its channel."""
        name = f"{node.domain}:{node.op_type}" if node.domain else node.op_type
        if name not in POINTWISE or not self._single(node.output[0]) or Attributes(node).integer("training_mode", 0):
            return False
        if node.op_type == "BatchNormalization":
            return axis == 1 and self.analysis.constants.names.issuperset(node.input[1:5])
        if tuple(self.analysis.shapes.shape[node.output[0]]) != tuple(shape):
            return False
        for constant in self.analysis.constants.names.intersection(node.input):
            sizes = self.analysis.constants.value(constant).shape
            own = axis - len(shape) + len(sizes)
            if math.prod(size for number, size in enumerate(sizes) if number != own) != 1:
                return False
        return True

    def _single(self, name: str) -> bool:
        """Tell whether a tensor is of float32: quotients of differences in fewer bits say nothing."""
        return name in self.analysis.shapes.shape and self.analysis.shapes.dtype.get(name) == TensorProto.FLOAT

    def _depthwise(self, layer: RefitLayer) -> bool:
        """Tell whether an op has one output for each of its inputs and reads nothing else, also of those that stay."""
        stays = self.keep[layer.rows], self.keep[layer.op.channels]
        return (
            layer.op.kind == "conv"
            and layer.op.group == layer.rows.size == layer.op.channels.size
            and bool(np.array_equal(*stays))
        )


def joint_chains(
    analysis: Analysis, layers: Collection[RefitLayer], keep: Keep, left: Collection[str] = ()
) -> tuple[Chain, ...]:
    """Find the chains of a network, in the order of its producers.

    Args:
        analysis: The network.
        layers: Its linear ops that are refitted.
        keep: Whether each channel stays.
        left: Outputs of ops whose weights are not free, so that neither they nor what they read is fitted in a chain.
    """
    search = _Search(analysis, {layer.output: layer for layer in layers if layer.output not in left}, keep)
    chains = map(search.chain, search.layers.values())
    return tuple(chain for chain in chains if chain is not None)
