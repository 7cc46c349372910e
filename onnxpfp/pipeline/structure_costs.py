"""What a target counts where layers may become two of low rank."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import chain
from typing import NamedTuple

import numpy as np

from onnxpfp.allocation.cost import CostModel
from onnxpfp.allocation.structure_cost import LayerTerms, StructureCost
from onnxpfp.arrays import Ids
from onnxpfp.channels import Analysis, ChannelGraph, Group
from onnxpfp.channels.branches import Branches
from onnxpfp.channels.ops import facts_of
from onnxpfp.low_rank.layers import LowRankLayer
from onnxpfp.pipeline.latency.op_latencies import REST, OpLatencies
from onnxpfp.pipeline.latency.pair_latencies import PairLatencies
from onnxpfp.pipeline.pair_ops import Factoring, RankedProduct, ends_of, pair_ops
from onnxpfp.pipeline.products import Product, assemble
from onnxpfp.rewrite.stored_numbers import entry_bits

__all__ = ["COUNTS", "LayerCount", "LayerProducts", "layer_terms", "structure_cost"]


class LayerProducts(NamedTuple):
    """What a layer costs.

    Attributes:
        whole: As it is.
        pair: As two ops.
    """

    whole: Sequence[Product]
    pair: Sequence[RankedProduct]


LayerCount = Callable[[Factoring], LayerProducts]
"""Counts what a layer costs."""


def structure_cost(
    analysis: Analysis,
    network: CostModel,
    count: LayerCount,
    ranked: Sequence[tuple[Factoring, int]],
    branches: Branches,
) -> StructureCost:
    """Return the cost of channels and ranks.

    Args:
        analysis: The network.
        network: Its cost with all layers whole.
        count: Counts the same of a layer.
        ranked: The layers, each with the number that stands for the whole of it.
        branches: The groups that may go entirely.
    """
    counted = [count(factoring) for factoring, _ in ranked]
    leaders = [_leaders(analysis, branches, factoring.layer) for factoring, _ in ranked]
    wholes = [[RankedProduct(product, 0) for product in each.whole] for each in counted]
    pairs = [each.pair for each in counted]
    graph, full = analysis.graph, np.array([number for _, number in ranked], np.int64)
    return StructureCost(network, layer_terms(graph, wholes, leaders), layer_terms(graph, pairs, leaders), full)


def layer_terms(
    graph: ChannelGraph, products: Sequence[Sequence[RankedProduct]], leaders: Sequence[frozenset[int]] | None = None
) -> LayerTerms:
    """Put together what layers cost.

    Args:
        graph: The channels.
        products: The terms of every layer.
        leaders: The groups that take each layer with them when they go; None where none may.
    """
    layer = np.repeat(np.arange(len(products)), [len(each) for each in products])
    every = [*chain.from_iterable(products)]
    goes = [frozenset[int]()] * len(products) if leaders is None else leaders
    model = assemble(
        graph, (each.product._replace(leaders=goes[number]) for number, each in zip(layer.tolist(), every, strict=True))
    )
    return LayerTerms(model, layer, np.array([each.block for each in every], np.int64))


def _leaders(analysis: Analysis, branches: Branches, layer: LowRankLayer) -> frozenset[int]:
    """Return the groups that take a layer with them when they go: of its branch, of all that it reads or gives."""
    groups, ends = analysis.graph.groups, ends_of(analysis, layer)
    own = (number for number in branches.may_go if any(_owns(groups[number], ids) for ids in ends))
    return branches.leaders_of(layer.uses[0].output).union(own)


def _owns(group: Group, ids: Ids) -> bool:
    return bool(np.isin(ids, group.channels).all())


def _macs(analysis: Analysis, factoring: Factoring) -> LayerProducts:
    whole = _whole_macs(analysis, factoring.layer)
    return LayerProducts(whole, [op.multiplied() for op in pair_ops(analysis, factoring)])


def _whole_macs(analysis: Analysis, layer: LowRankLayer, factor: float = 1, block: int = 1) -> list[Product]:
    """Return what the multiply-adds of a whole layer cost, at so much for each."""
    node = analysis.index.producer(layer.uses[0].output)
    terms = None if node is None else facts_of(node).mac_terms
    assert node is not None
    assert terms is not None
    shapes, axes = analysis.shapes.shape, analysis.graph.axes
    rank = {name: len(shapes[name]) for name in (*node.input, *node.output) if name in shapes}
    return [Product([axes[name][axis] for name, axis in term], factor, block) for term in terms(node, rank)]


def _params(analysis: Analysis, factoring: Factoring, bits: int = 1) -> LayerProducts:
    """LayerCount the numbers of the weights, each with so many bits."""
    layer, cut = factoring
    taps = math.prod(layer.kernel[:cut]), math.prod(layer.kernel[cut:])
    ends = zip(ends_of(analysis, layer), taps, strict=True)
    pair = [RankedProduct(Product([ids], bits * each), 1) for ids, each in ends]
    return LayerProducts([Product(analysis.graph.axes[layer.weight], bits)], pair)


def _size(analysis: Analysis, factoring: Factoring) -> LayerProducts:
    # Factors are stored in the type of the weights, which is a floating-point one.
    return _params(analysis, factoring, entry_bits(analysis.constants.stored[factoring.layer.weight]))


def _latency(analysis: Analysis, latencies: OpLatencies, pairs: PairLatencies) -> LayerCount:
    """LayerCount latency; what is charged to no op goes by tensors and multiply-adds, too."""
    by_op, units, rest = dict(latencies.products(analysis)), latencies.units, latencies.ops.get(REST)

    def count(factoring: Factoring) -> LayerProducts:
        layer, ops = factoring.layer, pair_ops(analysis, factoring)
        whole = [*by_op.get(layer.name, ())]
        pair = [
            *chain.from_iterable(op.latency(ms, units) for op, ms in zip(ops, pairs.ops[factoring.key], strict=True))
        ]
        if rest is not None:
            whole += _whole_macs(analysis, layer, units * rest.per_mac, rest.block)
            pair += [op.multiplied(units * rest.per_mac, rest.block) for op in ops]
            pair.append(RankedProduct(Product((), units * rest.per_element * ops[0].between), rest.block))
        return LayerProducts(whole, pair)

    return count


COUNTS: Mapping[str, Callable[[Analysis, OpLatencies, PairLatencies], LayerCount]] = {
    "macs": lambda analysis, _, __: partial(_macs, analysis),
    "params": lambda analysis, _, __: partial(_params, analysis),
    "size": lambda analysis, _, __: partial(_size, analysis),
    "latency": _latency,
}
"""By the X of the option keep_X."""
