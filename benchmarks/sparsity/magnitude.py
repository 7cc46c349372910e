"""Weights of the largest magnitude stay, over the network or layer by layer; nothing here is onnxpfp's code."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, numpy_helper

__all__ = ["by_magnitude", "nonzero", "weights_of"]

MULTIPLYING = {"Conv", "ConvTranspose", "Gemm", "MatMul"}


def weights_of(model: ModelProto) -> dict[str, NDArray[Any]]:
    """Return the stored weights of the layers, each once."""
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    names = [node.input[1] for node in model.graph.node if node.op_type in MULTIPLYING and node.input[1] in stored]
    return {name: numpy_helper.to_array(stored[name]) for name in names}


def nonzero(model: ModelProto) -> int:
    """Count the weights of the layers that are not zero."""
    return sum(int(np.count_nonzero(weight)) for weight in weights_of(model).values())


def by_magnitude(model: ModelProto, keep: float, *, by_layer: bool) -> ModelProto:
    """Return a copy with the smallest weights set to zero.

    Args:
        model: The model.
        keep: Share of the weights that stays.
        by_layer: Whether every layer keeps that share, or the whole network.
    """
    weights = weights_of(model)
    together = np.concatenate([np.abs(weight).ravel() for weight in weights.values()])
    out = ModelProto()
    out.CopyFrom(model)
    for tensor in out.graph.initializer:
        if tensor.name in weights:
            weight = weights[tensor.name]
            sizes = np.abs(weight).ravel() if by_layer else together
            least = np.sort(sizes)[len(sizes) - math.floor(keep * len(sizes))]
            tensor.CopyFrom(numpy_helper.from_array(np.where(np.abs(weight) >= least, weight, 0), tensor.name))
    return out
