"""Parameters and MACs of a file as it is.

One fused multiply-add of Conv, ConvTranspose, Gemm and MatMul is one MAC; everything else is none.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from onnx import ModelProto, NodeProto

from onnxpfp.model.attributes import Attributes
from onnxpfp.model.constants import stored_tensors, weight_names
from onnxpfp.model.shapes import Shapes

__all__ = ["Factors", "count_macs", "count_params", "mac_factors"]

Factors = list[tuple[str, int]]
"""Axes (tensor, axis) whose lengths multiply to a node's MACs."""


def count_params(model: ModelProto) -> int:
    """Count the stored numbers of all weights (shape arithmetic is none)."""
    stored = stored_tensors(model.graph)
    return sum(math.prod(stored[name].dims) for name in weight_names(model.graph))


def _factors(node: NodeProto, rank: Mapping[str, int]) -> Factors | None:
    """Return the axes (tensor, axis) whose lengths multiply to the node's MACs."""
    x, w, y = node.input[0], node.input[1], node.output[0]
    if node.op_type == "Conv":
        return [*((y, a) for a in range(rank[y])), *((w, a) for a in range(1, rank[w]))]
    if node.op_type == "ConvTranspose":
        return [*((x, a) for a in range(rank[x])), *((w, a) for a in range(1, rank[w]))]
    if node.op_type == "Gemm":
        inner = 0 if Attributes(node).integer("transA", 0) else 1
        return [(y, 0), (y, 1), (x, inner)]
    if node.op_type == "MatMul":
        return [*((y, a) for a in range(rank[y])), (x, rank[x] - 1)]
    return None


def mac_factors(model: ModelProto, shapes: Mapping[str, tuple[int, ...]]) -> Iterator[Factors]:
    """Yield the factors of every node that multiplies and adds."""
    rank = {name: len(shape) for name, shape in shapes.items()}
    for node in model.graph.node:
        if node.domain in {"", "ai.onnx"} and len(node.input) > 1:
            factors = _factors(node, rank)
            if factors is not None:
                yield factors


def count_macs(model: ModelProto, shapes: Shapes, samples: int = 1) -> int:
    """Count the multiply-adds for one sample.

    Args:
        model: The model.
        shapes: Shapes of its tensors at one run.
        samples: How many samples a run takes: 1, but for a model with a fixed batch.
    """
    products = (math.prod(shapes.shape[name][axis] for name, axis in f) for f in mac_factors(model, shapes.shape))
    return sum(products) // samples
