"""Two ops in the place of one whose weights have a low rank already, as a refit leaves them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto

from onnxpfp.arrays import AnyArray, Floats, Keep
from onnxpfp.channels import Analysis
from onnxpfp.low_rank.factor import Factors, decompose
from onnxpfp.low_rank.layers import LowRankLayer
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
        stays = full[places]
        product = _decomposed(each, _bank(each.layer, nodes[each.output], stays)).product()
        full[places] = _stored_bank(each.layer, product).reshape(stays.shape)
        tensors[name] = full
    return replace(edits, tensors=tensors)


def _factored(each: RankedLayer, node: NodeProto, stored: Mapping[str, TensorProto]) -> FactoredLayer:
    """Factor the weights that a node reads; they lose nothing but rounding by it."""
    weight = numbers(stored[node.input[1]])
    factors = _decomposed(each, _bank(each.layer, node, weight))
    return FactoredLayer.of(each.layer, each.choice.cut, factors, weight.dtype, None)


def _decomposed(each: RankedLayer, bank: Floats) -> Factors:
    decomposition = decompose(bank, each.choice.cut, None, each.choice.rank)
    return decomposition.factors(min(each.choice.rank, decomposition.left.shape[2]))


def _bank(layer: LowRankLayer, node: NodeProto, weight: AnyArray) -> Floats:
    """Return weights as an op reads them by convolution group, (g, o, c, *k); those of a matrix product (1, o, c)."""
    if layer.uses[0].op.kind == "matmul":
        bank = (weight if layer.transposed else weight.T)[None]
    else:
        bank = weight.reshape(Attributes(node).integer("group", 1), -1, *weight.shape[1:])
    return np.asarray(bank, np.float64)


def _stored_bank(layer: LowRankLayer, bank: Floats) -> Floats:
    """Bring weights back to where the op reads them."""
    if layer.uses[0].op.kind == "matmul":
        return bank[0] if layer.transposed else bank[0].T
    return bank.reshape(-1, *bank.shape[2:])
