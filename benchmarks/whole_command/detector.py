"""A detector of objects as a graph with random weights, made without torch: the layers of YOLOv5n.

Blocks in which half of the channels goes through bottlenecks (C3), pooling in three sizes (SPPF), a pyramid of features
that goes up and down again, SiLU behind every convolution, and a head at each of three strides.
"""

from __future__ import annotations

import numpy as np
from onnx import ModelProto

from benchmarks.speed.shapes import Builder, started

__all__ = ["SIDE", "yolo"]

SIDE = 320
WIDTH = 16
"""Channels behind the first convolution; every further stage has twice as many."""
ANCHORS, NUMBERS = 3, 85
"""Boxes of a place, and numbers of a box: four sides, whether there is anything, and 80 classes."""


def yolo() -> ModelProto:
    """Build it; the output has all boxes of the three heads, (N, boxes, numbers)."""
    net = started(SIDE)
    x = _conv(net, "x", WIDTH, 6, 2)
    levels: list[str] = []
    for stage, depth in enumerate((1, 2, 3, 1), 1):
        width = WIDTH << stage
        x = _c3(net, _conv(net, x, width, 3, 2), width, depth)
        levels.append(x)
    _, fine, middle, coarse = levels
    up_middle = _conv(net, _sppf(net, coarse), WIDTH << 3)
    x = _c3(net, _joined(net, _larger(net, up_middle), middle), WIDTH << 3, 1, shortcut=False)
    up_fine = _conv(net, x, WIDTH << 2)
    small = _c3(net, _joined(net, _larger(net, up_fine), fine), WIDTH << 2, 1, shortcut=False)
    down = _conv(net, small, WIDTH << 2, 3, 2)
    medium = _c3(net, _joined(net, down, up_fine), WIDTH << 3, 1, shortcut=False)
    down = _conv(net, medium, WIDTH << 3, 3, 2)
    large = _c3(net, _joined(net, down, up_middle), WIDTH << 4, 1, shortcut=False)
    return net.network(net.op("Concat", [_head(net, each) for each in (small, medium, large)], axis=1))


def _conv(net: Builder, x: str, outputs: int, kernel: int = 1, stride: int = 1) -> str:
    """Append a convolution and SiLU."""
    y = net.conv(x, outputs, kernel, stride)
    return net.op("Mul", [y, net.op("Sigmoid", [y])])


def _c3(net: Builder, x: str, width: int, depth: int, *, shortcut: bool = True) -> str:
    """Append a block of two branches; bottlenecks are in one of them."""
    inner, beside = _conv(net, x, width // 2), _conv(net, x, width // 2)
    for _ in range(depth):
        y = _conv(net, _conv(net, inner, width // 2), width // 2, 3)
        inner = net.op("Add", [inner, y]) if shortcut else y
    return _conv(net, _joined(net, inner, beside), width)


def _sppf(net: Builder, x: str) -> str:
    """Append pooling in windows of 5, 9 and 13."""
    width = net.values[x].shape[1]
    pooled = [_conv(net, x, width // 2)]
    for _ in range(3):
        pooled.append(net.op("MaxPool", pooled[-1:], kernel_shape=[5, 5], pads=[2] * 4))
    return _conv(net, _joined(net, *pooled), width)


def _joined(net: Builder, *parts: str) -> str:
    return net.op("Concat", [*parts], axis=1)


def _larger(net: Builder, x: str) -> str:
    """Append an upsampling by two."""
    name = f"n{len(net.nodes)}"
    sizes = {f"{name}.roi": np.zeros(0, np.float32), f"{name}.scales": np.array([1, 1, 2, 2], np.float32)}
    how = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    return net.op("Resize", [x], sizes, **how)


def _head(net: Builder, x: str) -> str:
    """Append a head: boxes after one another, (N, boxes, numbers)."""
    y = net.conv(x, ANCHORS * NUMBERS)
    rows, columns = net.values[y].shape[2:]

    def shaped(x: str, *shape: int) -> str:
        return net.op("Reshape", [x], {f"n{len(net.nodes)}.shape": np.array(shape, np.int64)})

    boxes = net.op("Transpose", [shaped(y, 0, ANCHORS, NUMBERS, rows, columns)], perm=[0, 1, 3, 4, 2])
    return net.op("Sigmoid", [shaped(boxes, 0, ANCHORS * rows * columns, NUMBERS)])
