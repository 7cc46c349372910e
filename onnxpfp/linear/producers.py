"""The filters that bring forth channels, with BatchNormalization folded for scoring only, and its scales."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from onnx import NodeProto

from onnxpfp.arrays import AnyFloats, Floats, Ids, chunks
from onnxpfp.channels.analysis import Analysis
from onnxpfp.channels.ops import facts_of
from onnxpfp.linear.bias import stored_bias
from onnxpfp.linear.layout import filters, output_axis
from onnxpfp.model.attributes import Attributes
from onnxpfp.model.constants import Constants

__all__ = ["Filters", "NormScale", "Producer", "batch_norm_terms", "carriers_of", "norm_scales", "producers_of"]


@dataclass(frozen=True, slots=True, eq=False)
class Filters:
    """Weights that bring forth channels.

    Attributes:
        ids: Channel ids of the output channels, (O,).
        rows: The filters as they are stored, (O, ...): a view of the weight where possible.
        scale: What each is multiplied by, (O,) float64.
    """

    ids: Ids
    rows: AnyFloats
    scale: Floats


@dataclass(frozen=True, slots=True, eq=False)
class Producer(Filters):
    """Filters of one linear node.

    Attributes:
        output: The node's output.
        plain_squares: Squared norm of every filter as it is stored, (O,) float64.
        plain_bias: Biases as they are stored, (O,) float64.
        folded: Output of the BatchNormalization that is folded; empty where there is none.
        squares: Squared norm of every filter times its scale, (O,) float64.
        bias: Biases behind that, (O,) float64.
    """

    output: str
    plain_squares: Floats
    plain_bias: Floats
    folded: str
    squares: Floats
    bias: Floats


@dataclass(frozen=True, slots=True, eq=False)
class NormScale:
    """The scale of one BatchNormalization.

    Attributes:
        ids: Channel ids of the axis that it normalizes, (C,).
        gamma: Its scale, (C,) float64.
    """

    ids: Ids
    gamma: Floats


def _squares(rows: AnyFloats) -> Floats:
    """Return the squared norm of every filter."""
    squares = np.zeros(len(rows))
    for run in chunks(len(rows), 8 * rows.size // len(rows)):
        part = np.ascontiguousarray(rows[run], dtype=np.float64)
        squares[run] = np.square(part.reshape(len(part), -1)).sum(1)
    return squares


def producers_of(analysis: Analysis) -> list[Producer]:
    """Collect the filters that bring forth channels of a model, with BatchNormalization folded."""
    model, graph, constants = analysis.model, analysis.graph, analysis.constants
    followers: dict[str, NodeProto] = {}
    for node in model.graph.node:
        if node.op_type == "BatchNormalization":
            followers[node.input[0]] = node
    producers: list[Producer] = []
    for node in model.graph.node:
        layout = facts_of(node).layout
        if layout is None or len(node.input) < 2 or node.input[1] not in constants.names:
            continue
        ids = graph.axes[node.output[0]]
        axis = ids[output_axis(len(ids), matrix=layout == "matrix")]
        if not (axis != 0).any():
            continue
        rows = filters(constants.value(node.input[1]), node)
        if rows.shape[0] != axis.size:
            continue
        bias = stored_bias(node, constants, axis.size)
        unbiased = np.zeros(axis.size) if bias is None else bias
        norm, plain = followers.get(node.output[0]), _squares(rows)
        if norm is not None and not constants.names.issuperset(norm.input[1:5]):
            norm = None
        scale, shifted = _fold(norm, constants, unbiased)
        folded = norm.output[0] if norm else ""
        of_filters = node.output[0], plain, unbiased, folded, plain * np.square(scale), shifted
        producers.append(Producer(axis, rows, scale, *of_filters))
    return producers


def carriers_of(analysis: Analysis) -> list[Filters]:
    """Collect the filters of any op that bring forth channels: of embeddings and recurrences, too, as they are stored.

    Integers are left out, as what they stand for is the op's own business.
    """
    graph, constants = analysis.graph, analysis.constants
    contracted = {(consumer.weight, consumer.weight_axis) for consumer in graph.consumers}
    carriers: list[Filters] = []
    for name, axes in graph.stored_axes():
        for number, ids in enumerate(axes):
            if len(axes) < 2 or (name, number) in contracted or not ids.any():
                continue
            weight = constants.value(name)
            if weight.dtype.kind == "f":
                carriers.append(Filters(ids, np.moveaxis(weight, number, 0), np.ones(ids.size)))
    return carriers


def norm_scales(analysis: Analysis) -> list[NormScale]:
    """Collect the scales of all BatchNormalizations on axes with channels, before a consumer or behind a producer."""
    graph, constants = analysis.graph, analysis.constants
    norms: list[NormScale] = []
    for node in analysis.model.graph.node:
        if node.op_type != "BatchNormalization" or node.input[1] not in constants.names:
            continue
        ids = graph.axes[node.output[0]][1]
        if (ids != 0).any():
            norms.append(NormScale(ids, constants.value(node.input[1]).astype(np.float64)))
    return norms


def batch_norm_terms(norm: NodeProto, constants: Constants) -> tuple[Floats, Floats]:
    """Return what a BatchNormalization of stored numbers multiplies every channel by, and what it adds."""
    gamma, beta, mean, variance = (constants.value(name).astype(np.float64) for name in norm.input[1:5])
    scale = gamma / np.sqrt(np.maximum(variance, 0) + Attributes(norm).real("epsilon", 1e-5))
    return scale, beta - mean * scale


def _fold(norm: NodeProto | None, constants: Constants, bias: Floats) -> tuple[Floats, Floats]:
    """Fold BatchNormalization: F gamma/sigma, (b - mu) gamma/sigma + beta; return the factors of F, and the biases."""
    if norm is None:
        return np.ones(len(bias)), bias
    scale, shift = batch_norm_terms(norm, constants)
    return scale, bias * scale + shift
