"""The two ops of low rank that take the place of a layer: what they read, write and multiply, by channels and rank."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from onnxpfp.allocation.op_latency import OpLatency
from onnxpfp.arrays import Ids
from onnxpfp.channels import Analysis
from onnxpfp.linear.layout import output_axis
from onnxpfp.low_rank.layers import LowRankLayer
from onnxpfp.pipeline.products import Product

__all__ = ["Factoring", "PairOp", "RankedProduct", "ends_of", "layer_axis", "pair_ops"]


class Factoring(NamedTuple):
    """A layer, and how its kernel is divided.

    Attributes:
        layer: The layer, of one op.
        cut: How many of the kernel's axes the first op has.
    """

    layer: LowRankLayer
    cut: int

    @property
    def key(self) -> tuple[str, int]:
        """What tells it from others: the output of its op, and the cut."""
        return self.layer.uses[0].output, self.cut


class RankedProduct(NamedTuple):
    """One term of what a layer costs at a rank.

    Attributes:
        product: The term, without the rank.
        block: Multiple to which the rank is rounded up that it has as a factor; 0 where it has none.
    """

    product: Product
    block: int


class PairOp(NamedTuple):
    """One of two ops of low rank.

    Attributes:
        outer: Axes of the tensor that it shares with the layer: what is read, or what is written.
        between: Numbers for each rank of the tensor between both ops.
        channels: The channels among `outer` that it contracts or computes.
        macs: Multiply-adds for each of these channels and each rank.
    """

    outer: Sequence[Ids]
    between: int
    channels: Ids
    macs: int

    def elements(self, factor: float, block: int) -> Iterator[RankedProduct]:
        """Yield what it costs to read and write, at so much for a number."""
        yield RankedProduct(Product(self.outer, factor, block), 0)
        yield RankedProduct(Product((), factor * self.between), block)

    def multiplied(self, factor: float = 1, block: int = 1) -> RankedProduct:
        """Return what its multiply-adds cost, at so much for each."""
        return RankedProduct(Product([self.channels], factor * self.macs, block), block)

    def latency(self, ms: OpLatency, units: float) -> Iterator[RankedProduct]:
        """Yield its latency, in units of a millisecond."""
        yield RankedProduct(Product((), units * ms.constant), 0)
        yield from self.elements(units * ms.per_element, ms.block)
        yield self.multiplied(units * ms.per_mac, ms.block)


def pair_ops(analysis: Analysis, factoring: Factoring) -> tuple[PairOp, PairOp]:
    """Return the ops that take the place of a layer of a network."""
    layer, cut = factoring
    use, axes = layer.uses[0], analysis.graph.axes
    inputs, outputs = ends_of(analysis, layer)
    first = use.first_macs_of_channel(cut)
    between = first // math.prod(layer.kernel[:cut])
    return (
        PairOp(axes[use.op.data], between, inputs, first),
        PairOp(axes[use.output], between, outputs, use.second_macs_of_output(cut)),
    )


def ends_of(analysis: Analysis, layer: LowRankLayer) -> tuple[Ids, Ids]:
    """Return the channels that a layer of one op reads, and those that it gives."""
    use = layer.uses[0]
    return use.op.channels, analysis.graph.axes[use.output][layer_axis(analysis, layer)]


def layer_axis(analysis: Analysis, layer: LowRankLayer) -> int:
    """Return the axis that has the outputs of a layer of one op."""
    use = layer.uses[0]
    return output_axis(len(analysis.shapes.shape[use.output]), matrix=use.op.kind == "matmul")
