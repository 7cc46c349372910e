"""The filters that bring forth channels, with BatchNormalization folded for scoring only, and its scales."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from onnx import NodeProto

from onnxpfp.arrays import AnyFloats, Floats, Ids, chunks
from onnxpfp.channels.analysis import Analysis
from onnxpfp.model.attributes import Attributes
from onnxpfp.model.constants import Constants

__all__ = ["Filters", "NormScale", "Producer", "carriers_of", "norm_scales", "producers_of"]


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
        squares: Squared norm of every filter times its scale, (O,) float64.
        bias: Biases, (O,) float64.
    """

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


def _rows(node: NodeProto, weight: AnyFloats) -> AnyFloats:
    """Return the filters of a linear node, one per index of the first axis: a view of its weight where possible."""
    options, op = Attributes(node), node.op_type.removeprefix("Fused")
    if op == "Conv":
        return weight
    if op == "ConvTranspose":
        group = options.integer("group", 1)
        grouped = weight.reshape(group, -1, *weight.shape[1:])
        return np.moveaxis(grouped, 2, 1).reshape(group * weight.shape[1], grouped.shape[1], *weight.shape[2:])
    if op == "Gemm" and options.integer("transB", 0):
        return weight
    return np.moveaxis(weight, -1, 0)


def _squares(rows: AnyFloats, scale: Floats) -> Floats:
    """Return the squared norm of every filter times its scale."""
    found = np.zeros(len(rows))
    for run in chunks(len(rows), 8 * rows.size // len(rows)):
        part = np.ascontiguousarray(rows[run], dtype=np.float64)
        found[run] = np.square(part.reshape(len(part), -1) * scale[run, None]).sum(1)
    return found


def producers_of(analysis: Analysis) -> list[Producer]:
    """Collect the filters that bring forth channels of a model, with BatchNormalization folded."""
    model, graph, constants = analysis.model, analysis.graph, analysis.constants
    followers: dict[str, NodeProto] = {}
    for node in model.graph.node:
        if node.op_type == "BatchNormalization":
            followers[node.input[0]] = node
    found: list[Producer] = []
    for node in model.graph.node:
        op = node.op_type.removeprefix("Fused")
        if op not in {"Conv", "ConvTranspose", "Gemm", "MatMul"}:
            continue
        if len(node.input) < 2 or node.input[1] not in constants.names:
            continue
        ids = graph.axes[node.output[0]]
        axis = ids[1] if op.startswith("Conv") else ids[-1]
        if not (axis != 0).any():
            continue
        rows = _rows(node, constants.value(node.input[1]))
        if rows.shape[0] != axis.size:
            continue
        bias = _bias(node, constants, axis.size)
        scale, shifted = _fold(followers.get(node.output[0]), constants, bias)
        found.append(Producer(axis, rows, scale, _squares(rows, scale), shifted))
    return found


def carriers_of(analysis: Analysis) -> list[Filters]:
    """Collect the filters of any op that bring forth channels: of embeddings and recurrences, too, as they are stored.

    Integers are left out, as what they stand for is the op's own business.
    """
    graph, constants = analysis.graph, analysis.constants
    contracted = {(consumer.weight, consumer.weight_axis) for consumer in graph.consumers}
    found: list[Filters] = []
    for name, axes in graph.stored_axes():
        for number, ids in enumerate(axes):
            if len(axes) < 2 or (name, number) in contracted or not ids.any():
                continue
            weight = constants.value(name)
            if weight.dtype.kind == "f":
                found.append(Filters(ids, np.moveaxis(weight, number, 0), np.ones(ids.size)))
    return found


def norm_scales(analysis: Analysis) -> list[NormScale]:
    """Collect the scales of all BatchNormalizations on axes with channels, before a consumer or behind a producer."""
    graph, constants = analysis.graph, analysis.constants
    found: list[NormScale] = []
    for node in analysis.model.graph.node:
        if node.op_type != "BatchNormalization" or node.input[1] not in constants.names:
            continue
        ids = graph.axes[node.output[0]][1]
        if (ids != 0).any():
            found.append(NormScale(ids, constants.value(node.input[1]).astype(np.float64)))
    return found


def _bias(node: NodeProto, constants: Constants, size: int) -> Floats:
    if len(node.input) > 2 and node.input[2] in constants.names:
        bias = constants.value(node.input[2]).astype(np.float64)
        if bias.size in {1, size}:
            return np.broadcast_to(bias.ravel(), (size,)).copy()
    return np.zeros(size)


def _fold(norm: NodeProto | None, constants: Constants, bias: Floats) -> tuple[Floats, Floats]:
    """Fold BatchNormalization: F gamma/sigma, (b - mu) gamma/sigma + beta; return the factors of F, and the biases."""
    if norm is None or not constants.names.issuperset(norm.input[1:5]):
        return np.ones(len(bias)), bias
    gamma, beta, mean, variance = (constants.value(name).astype(np.float64) for name in norm.input[1:5])
    epsilon = Attributes(norm).real("epsilon", 1e-5)
    scale = gamma / np.sqrt(np.maximum(variance, 0) + epsilon)
    return scale, (bias - mean) * scale + beta
