"""A ConvNeXt as a graph with random weights, made without torch: ConvNeXt-Atto with half of its blocks."""

from __future__ import annotations

import numpy as np
from onnx import ModelProto

from benchmarks.latency.vit import GraphBuilder

__all__ = ["convnext"]

WIDTHS, DEPTHS = (40, 80, 160, 320), (1, 1, 3, 1)


def convnext() -> ModelProto:
    """Build it; the residual branches are so small that the stream keeps its size with the depth."""
    net = GraphBuilder(np.random.default_rng(0))
    gain = (2 * sum(DEPTHS)) ** -0.5
    x = _patches(net, "x", 3, WIDTHS[0], 4)
    for stage, (width, depth) in enumerate(zip(WIDTHS, DEPTHS, strict=True)):
        if stage:
            x = _patches(net, _norm(net, x, WIDTHS[stage - 1]), WIDTHS[stage - 1], width, 2)
        for _ in range(depth):
            x = net.op("Add", x, _branch(net, x, width, gain))
    pooled = net.op("ReduceMean", x, axes=[2, 3], keepdims=0)
    return net.classifier(pooled, WIDTHS[-1])


def _patches(net: GraphBuilder, x: str, inputs: int, outputs: int, size: int) -> str:
    """Append a convolution over patches that do not overlap."""
    filters = net.normal(outputs, inputs, size, size, spread=(inputs * size**2) ** -0.5)
    return net.op("Conv", x, filters, net.normal(outputs, spread=0.3), strides=[size, size])


def _norm(net: GraphBuilder, x: str, width: int) -> str:
    """Append a normalization over the channels of maps, as torch exports it."""
    last = net.op("Transpose", x, perm=[0, 2, 3, 1])
    return net.op("Transpose", net.norm(last, width), perm=[0, 3, 1, 2])


def _branch(net: GraphBuilder, x: str, width: int, gain: float) -> str:
    """Append a depthwise convolution and an MLP over the channels."""
    filters = net.normal(width, 1, 7, 7, spread=1 / 7)
    mixed = net.op("Conv", x, filters, net.normal(width, spread=0.1), pads=[3] * 4, group=width)
    rows = net.norm(net.op("Transpose", mixed, perm=[0, 2, 3, 1]), width)
    wide = net.gelu(net.linear(rows, width, 4 * width))
    return net.op("Transpose", net.linear(wide, 4 * width, width, gain), perm=[0, 3, 1, 2])
