"""Two ops in the place of one whose weights have a low rank already, as a refit leaves them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto

from onnxpfp.arrays import Keep
from onnxpfp.channels import Analysis
from onnxpfp.low_rank.factor import nearest_factors
from onnxpfp.low_rank.layers import LowRankLayer
from onnxpfp.low_rank.limit import RankLimit
from onnxpfp.low_rank.ranks import Choice
from onnxpfp.low_rank.rewrite import FactoredLayer, with_factors
from onnxpfp.model.attributes import Attributes
from onnxpfp.model.constants import stored_tensors
from onnxpfp.rewrite.edits import Edits
from onnxpfp.runtime.external_data import numbers

__all__ = ["RankedLayer", "edits_of_rank", "factors_of", "split"]


@dataclass(frozen=True, slots=True, eq=False)
class RankedLayer:
    """A layer and the rank that its weights have.

    Attributes:
        layer: The layer, of one op.
        choice: The scheme and the rank.
        kept: Share of the variance of its outputs in the original that the rank can keep; None where a plan says the
            rank.
    """

    layer: LowRankLayer
    choice: Choice
    kept: float | None = None

    @property
    def output(self) -> str:
        """Name of its op's output."""
        return self.layer.uses[0].output

    @property
    def limit(self) -> RankLimit:
        """The limit of its weights."""
        return RankLimit(self.layer.kernel, self.choice)


def split(model: ModelProto, ranked: Sequence[RankedLayer]) -> ModelProto:
    """Put two nodes in the place of one, with factors of the weights that the model has by now.

    Args:
        model: The model, whose weights have these ranks up to rounding; it is not changed.
        ranked: The layers; their ops are found by the names of their outputs.
    """
    if not ranked:
        return model
    return with_factors(model, factors_of(model, ranked))


def factors_of(model: ModelProto, ranked: Sequence[RankedLayer]) -> list[FactoredLayer]:
    """Factor the weights that layers have by now; arguments as those of `split`."""
    stored = stored_tensors(model.graph)
    nodes = {node.output[0]: node for node in model.graph.node if node.output}
    return [_factored(each, nodes[each.output], stored) for each in ranked]


def edits_of_rank(analysis: Analysis, keep: Keep, edits: Edits, ranked: Sequence[RankedLayer]) -> Edits:
    """Bring what stays of weights to their ranks, by the weights alone: where nothing is refitted.

    Args:
        analysis: The model.
        keep: Whether each channel stays.
        edits: Edits made before.
        ranked: The layers.

    Returns:
        The edits, and new weights at full size.
    """
    tensors = dict(edits.tensors)
    graph = analysis.model.graph
    nodes = {node.output[0]: node for node in graph.node if node.output}
    for each in ranked:
        name = each.layer.weight
        full = np.array(tensors.get(name, analysis.constants.value(name)))
        places = np.ix_(*(np.flatnonzero(keep[ids]) for ids in analysis.graph.axes[name]))
        bank = each.layer.bank(full[places], _groups(nodes[each.output]))
        product = nearest_factors(bank, each.choice.cut, each.choice.rank).product()
        full[places] = each.layer.as_read(product)
        tensors[name] = full
    return replace(edits, tensors=tensors)


def _factored(each: RankedLayer, node: NodeProto, stored: Mapping[str, TensorProto]) -> FactoredLayer:
    """Factor the weights that a node reads; they lose nothing but rounding by it."""
    choice, weight = each.choice, numbers(stored[node.input[1]])
    factors = nearest_factors(each.layer.bank(weight, _groups(node)), choice.cut, choice.rank)
    return FactoredLayer.of(each.layer, choice.cut, factors, weight.dtype, None)


def _groups(node: NodeProto) -> int:
    """Return the convolution groups of a node, which may be fewer than the layer had."""
    return Attributes(node).integer("group", 1)
