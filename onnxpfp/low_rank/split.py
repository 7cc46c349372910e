"""Two ops in the place of one whose weights have a low rank already, as a refit leaves them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto

from onnxpfp.low_rank.factor import decompose
from onnxpfp.low_rank.layers import LowRankLayer
from onnxpfp.low_rank.ranks import Choice
from onnxpfp.low_rank.rewrite import FactoredLayer, with_factors
from onnxpfp.model.attributes import Attributes
from onnxpfp.model.constants import stored_tensors
from onnxpfp.runtime.external_data import numbers

__all__ = ["RankedLayer", "factors_of", "split"]


@dataclass(frozen=True, slots=True, eq=False)
class RankedLayer:
    """A layer and the rank that its weights have.

    Attributes:
        layer: The layer, of one op.
        choice: The scheme and the rank.
    """

    layer: LowRankLayer
    choice: Choice


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
    return [_factored(each, nodes[each.layer.uses[0].output], stored) for each in ranked]


def _factored(each: RankedLayer, node: NodeProto, stored: Mapping[str, TensorProto]) -> FactoredLayer:
    """Factor the weights that a node reads; they lose nothing but rounding by it."""
    layer = each.layer
    weight = numbers(stored[node.input[1]])
    if layer.uses[0].op.kind == "matmul":
        bank = (weight if layer.transposed else weight.T)[None]
    else:
        bank = weight.reshape(Attributes(node).integer("group", 1), -1, *weight.shape[1:])
    decomposition = decompose(np.asarray(bank, np.float64), each.choice.cut, None, each.choice.rank)
    factors = decomposition.factors(min(each.choice.rank, decomposition.left.shape[2]))
    return FactoredLayer.of(layer, each.choice.cut, factors, weight.dtype, None)
