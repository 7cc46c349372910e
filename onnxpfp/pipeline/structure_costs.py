"""What a target counts where layers may become two of low rank."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from onnxpfp.allocation.cost import CostModel
from onnxpfp.allocation.structure_cost import StructureCost
from onnxpfp.arrays import Ids
from onnxpfp.channels import Analysis, Group
from onnxpfp.channels.branches import Branches
from onnxpfp.channels.macs import mac_nodes
from onnxpfp.pipeline.products import Product, assemble
from onnxpfp.pipeline.ranked_layers import RankedTrial

__all__ = ["structure_cost"]

LayerProducts = tuple[Product, Product, Product]
"""What a layer costs whole, and what one rank costs in its first op and in its second."""


def structure_cost(
    analysis: Analysis, network: CostModel, quantity: str, ranked: Sequence[RankedTrial], branches: Branches
) -> StructureCost:
    """Return the cost of channels and ranks.

    Args:
        analysis: The network.
        network: Its cost with all layers whole.
        quantity: What it counts, "macs" or "params".
        ranked: The layers.
        branches: The groups that may go entirely.
    """
    products = [
        tuple(product._replace(leaders=_leaders(analysis, branches, each)) for product in made)
        for each, made in zip(ranked, PRODUCTS[quantity](analysis, ranked), strict=True)
    ]
    wholes, firsts, seconds = zip(*products, strict=True)
    units = [product for pair in zip(firsts, seconds, strict=True) for product in pair]
    graph = analysis.graph
    full = np.array([each.allowed[0] for each in ranked], np.int64)
    return StructureCost(network, assemble(graph, wholes), assemble(graph, units), full)


def _leaders(analysis: Analysis, branches: Branches, each: RankedTrial) -> frozenset[int]:
    """Return the groups that take a layer with them when they go: of its branch, of all that it reads or gives."""
    refit, groups = each.trial.layer, analysis.graph.groups
    ends = refit.op.channels, refit.rows
    own = (number for number in branches.may_go if any(_owns(groups[number], ids) for ids in ends))
    return branches.leaders_of(refit.output).union(own)


def _owns(group: Group, ids: Ids) -> bool:
    return bool(np.isin(ids, group.channels).all())


def _macs(analysis: Analysis, ranked: Sequence[RankedTrial]) -> Iterator[LayerProducts]:
    axes = analysis.graph.axes
    terms = {node.output[0]: term for node, term in mac_nodes(analysis.model, analysis.shapes.shape) if node.output}
    for each in ranked:
        refit, use, cut = each.trial.layer, each.layer.uses[0], each.trial.curve.cut
        whole = Product([axes[name][axis] for name, axis in terms[refit.output]])
        yield whole, *_unit(each, use.first_macs_of_channel(cut), use.second_macs_of_output(cut))


def _params(analysis: Analysis, ranked: Sequence[RankedTrial]) -> Iterator[LayerProducts]:
    for each in ranked:
        kernel, cut = each.layer.kernel, each.trial.curve.cut
        whole = Product(analysis.graph.axes[each.layer.weight])
        yield whole, *_unit(each, math.prod(kernel[:cut]), math.prod(kernel[cut:]))


def _unit(each: RankedTrial, first: int, second: int) -> tuple[Product, Product]:
    """Return what one rank costs, by what it costs of one channel that is read, and of one output."""
    refit = each.trial.layer
    return Product([refit.op.channels], first), Product([refit.rows], second)


PRODUCTS: Mapping[str, Callable[[Analysis, Sequence[RankedTrial]], Iterator[LayerProducts]]] = {
    "macs": _macs,
    "params": _params,
}
"""By the X of the option keep_X."""
