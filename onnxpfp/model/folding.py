"""Weights that the graph computes from other weights: weight standardisation, weight norm, merged factors.

Where such a computation mixes indices of a weight (a mean over its filters, a norm, a product), no index of
that weight could go without changing the rest. What comes out is an ordinary weight, though: it is computed
once and stored in the computation's place. Casts, transpositions and dequantization stay as they are.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from onnxpfp.model.constants import Constants, read_elsewhere, reader_counts

__all__ = ["fold_weights"]

MIXING = frozenset(
    {"BatchNormalization", "Conv", "Einsum", "Gemm", "InstanceNormalization", "LayerNormalization"}
    | {"GroupNormalization", "LpNormalization", "MatMul", "MeanVarianceNormalization", "Softmax"}
)
"""Ops, beside all ReduceX, that compute a number from several indices of an axis."""
INITIALIZERS_ARE_FREE = 4
"""First IR version in which an initializer need not be an input."""


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
    wanted = _wanted(model.graph, constants)
    if not wanted:
        return model
    folded = ModelProto()
    folded.CopyFrom(model)
    tensors = [numpy_helper.from_array(np.asarray(constants.value(name)), name) for name in wanted]
    tensors = [tensor for tensor in tensors if tensor.data_type != TensorProto.STRING]
    _store(folded, tensors)
    return folded


def _mixes(node: NodeProto) -> bool:
    return node.op_type in MIXING or node.op_type.startswith("Reduce")


def _wanted(graph: GraphProto, constants: Constants) -> list[str]:
    """Name what mixing computations on constants hand to nodes that depend on the inputs."""
    # Shape arithmetic reduces too, and stays: no weight stands behind it.
    weights = set(constants.weights)
    mixed: set[str] = set()
    wanted: dict[str, None] = {}
    for node in graph.node:
        outputs = [name for name in node.output if name]
        if not constants.names.issuperset(outputs):
            wanted.update(dict.fromkeys(name for name in node.input if name in mixed))
        elif node.op_type not in {"Shape", "Size"} and not weights.isdisjoint(node.input):
            weights.update(outputs)
            if _mixes(node) or not mixed.isdisjoint(node.input):
                mixed.update(outputs)
    elsewhere = read_elsewhere(graph)
    return [name for name in wanted if name not in elsewhere]


def _store(model: ModelProto, tensors: Iterable[TensorProto]) -> None:
    """Put tensors in the place of the nodes that compute them, and drop what only served those."""
    graph = model.graph
    stored = {tensor.name: tensor for tensor in tensors}
    listed = {info.name for info in graph.input}
    kept: list[NodeProto] = []
    readers = reader_counts(graph)
    readers.update(output.name for output in graph.output)
    dropped: set[str] = set()
    for node in reversed(graph.node):
        if all(name in stored or not readers[name] for name in node.output if name) and any(
            name in stored or name in dropped for name in node.output
        ):
            readers.subtract(name for name in node.input if name)
            dropped.update(name for name in node.input if name and not readers[name])
        else:
            kept.append(node)
    nodes = [_copy(node) for node in reversed(kept)]
    free = model.ir_version >= INITIALIZERS_ARE_FREE
    if not free:
        nodes = [helper.make_node("Constant", [], [name], value=tensor) for name, tensor in stored.items()] + nodes
    del graph.node[:]
    graph.node.extend(nodes)
    for tensor in [t for t in graph.initializer if t.name in dropped and t.name not in listed]:
        graph.initializer.remove(tensor)
    if free:
        graph.initializer.extend(stored.values())
    for info in [info for info in graph.value_info if info.name in dropped]:
        graph.value_info.remove(info)


def _copy(node: NodeProto) -> NodeProto:
    copy = NodeProto()
    copy.CopyFrom(node)
    return copy
