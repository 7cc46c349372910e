"""Weights that the graph computes from other weights: weight standardisation, weight norm, merged factors.

Where such a computation mixes indices of a weight (a mean over its filters, a norm, a product), no index of
that weight could go without changing the rest. What comes out is an ordinary weight, though: it is computed
once and stored in the computation's place. Casts, transpositions and dequantization stay as they are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, numpy_helper

from onnxpfp.model.constants import Constants, read_elsewhere, reader_counts, stored_tensors
from onnxpfp.model.edit import add_constants, drop_nodes, drop_unread

__all__ = ["fold_weights", "widened"]

MIXING = frozenset(
    {"BatchNormalization", "Conv", "Einsum", "Gemm", "InstanceNormalization", "LayerNormalization"}
    | {"GroupNormalization", "LpNormalization", "MatMul", "MeanVarianceNormalization", "Softmax"}
    | {"ScatterElements", "ScatterND"}
)
"""Ops, beside all ReduceX, that compute a number from several indices of an axis, or write at some of them."""


def fold_weights(model: ModelProto) -> ModelProto:
    """Store the weights that are computed from constants by mixing their indices.

    Args:
        model: The model; it is not changed.

    Returns:
        The model itself where there is nothing to fold, else a copy that computes the same.

    Raises:
        ModelError: onnxruntime cannot compute a constant.
    """
    constants = Constants.of(model)
    names = _wanted(model.graph, constants)
    if not names:
        return model
    folded = ModelProto()
    folded.CopyFrom(model)
    tensors = [numpy_helper.from_array(np.asarray(constants.value(name)), name) for name in names]
    tensors = [tensor for tensor in tensors if tensor.data_type != TensorProto.STRING]
    _store(folded, tensors)
    return folded


def widened(flat: ModelProto, folded: ModelProto) -> frozenset[str]:
    """Name the folded weights that take more than the constants that they are computed from: products of few ranks.

    Args:
        flat: The model before folding.
        folded: The model after it.
    """
    constants, after = Constants.of(flat), stored_tensors(folded.graph)
    names = [name for name in after if name not in constants.stored and name in constants.names]

    def sources(name: str) -> set[str]:
        nodes = constants.nodes_behind(name)
        return {read for node in nodes for read in (*node.input, *node.output) if read in constants.stored}

    return frozenset(
        name
        for name in names
        if math.prod(after[name].dims) > sum(math.prod(constants.stored[source].dims) for source in sources(name))
    )


def _mixes(node: NodeProto) -> bool:
    return node.op_type in MIXING or node.op_type.startswith("Reduce")


def _wanted(graph: GraphProto, constants: Constants) -> list[str]:
    """Name what mixing computations on constants hand to nodes that depend on the inputs."""
    # Shape arithmetic reduces too, and stays: no weight stands behind it.
    weights = set(constants.weights)
    mixed: set[str] = set()
    names: dict[str, None] = {}
    for node in graph.node:
        outputs = [name for name in node.output if name]
        if not constants.names.issuperset(outputs):
            names.update(dict.fromkeys(name for name in node.input if name in mixed))
        elif node.op_type not in {"Shape", "Size"} and not weights.isdisjoint(node.input):
            weights.update(outputs)
            if _mixes(node) or not mixed.isdisjoint(node.input):
                mixed.update(outputs)
    elsewhere = read_elsewhere(graph)
    return [name for name in names if name not in elsewhere]


def _store(model: ModelProto, tensors: Sequence[TensorProto]) -> None:
    """Put tensors in the place of the nodes that compute them, and drop what only served those."""
    graph = model.graph
    stored = {tensor.name for tensor in tensors}
    readers = reader_counts(graph)
    unread: list[str] = []
    computing: list[int] = []
    for position, node in enumerate(graph.node):
        if stored.isdisjoint(node.output):
            continue
        unread.extend(node.input)
        if any(readers[name] for name in node.output if name and name not in stored):
            node.output[:] = ["" if name in stored else name for name in node.output]
        else:
            computing.append(position)
    drop_nodes(graph, computing)
    drop_unread(graph, unread)
    add_constants(model, tensors)
