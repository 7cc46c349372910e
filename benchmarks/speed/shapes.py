"""ResNet-50 and MobileNetV2 as graphs with random weights, made without torch, and images of text lines.

Weights are drawn so that every convolution puts out zero mean and unit variance on a batch of noise, then shifted per
channel: activations spread, and ReLUs cut, as behind the batch normalizations of `benchmarks.speed.exports`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from benchmarks.speed.networks import SIDE, noise
from onnxpfp.runtime.session import open_session

__all__ = ["Builder", "mobilenet_v2", "resnet50", "started", "text_lines"]

OPSET, IR = 17, 8
SHIFT = 0.3
"""Standard deviation of the shifts, as in `benchmarks.speed.exports`."""
PROBES = 2
"""Images of noise that the statistics are taken on."""
CLASSES = 1000
STROKES, POINTS, WIDTH = 40, 60, 1.2
"""Strokes of a text line, points of a stroke, and its half width in pixels."""

Floats = NDArray[np.float32]


@dataclass(slots=True, eq=False)
class Builder:
    """A graph that is run as it grows, node by node."""

    rng: np.random.Generator
    nodes: list[NodeProto] = field(default_factory=list[NodeProto])
    weights: dict[str, NDArray[Any]] = field(default_factory=dict[str, NDArray[Any]])
    values: dict[str, Floats] = field(default_factory=dict[str, Floats])

    def op(
        self, kind: str, inputs: list[str], weights: dict[str, NDArray[Any]] | None = None, **attributes: object
    ) -> str:
        """Append a node; return its output."""
        own = weights or {}
        name = f"n{len(self.nodes)}"
        node = helper.make_node(kind, [*inputs, *own], [name], name=name, **attributes)
        self.values[name] = self._run(node, {each: self.values[each] for each in inputs}, own)
        self.nodes.append(node)
        self.weights |= own
        return name

    def conv(self, x: str, outputs: int, kernel: int = 1, stride: int = 1, group: int = 1) -> str:
        """Append a convolution whose outputs are normalized and shifted."""
        inputs = self.values[x].shape[1] // group
        weight = self.rng.standard_normal((outputs, inputs, kernel, kernel), dtype=np.float32)
        window = {
            "strides": [stride] * 2,
            "pads": [(kernel - 1) // 2] * 4,
            "kernel_shape": [kernel] * 2,
            "group": group,
        }
        node = helper.make_node("Conv", [x, "w"], ["y"], **window)
        y = self._run(node, {x: self.values[x]}, {"w": weight})
        mean, spread = y.mean((0, 2, 3)), y.std((0, 2, 3)) + np.float32(1e-6)
        bias = self.rng.normal(0, SHIFT, outputs).astype(np.float32) - mean / spread
        name = f"n{len(self.nodes)}"
        tensors = {f"{name}.weight": weight / spread[:, None, None, None], f"{name}.bias": bias}
        return self.op("Conv", [x], tensors, **window)

    def head(self, x: str) -> ModelProto:
        """Append pooling and a linear layer; return the network."""
        pooled = self.op("Flatten", [self.op("GlobalAveragePool", [x])], axis=1)
        inputs = self.values[pooled].shape[1]
        weight = self.rng.normal(0, inputs**-0.5, (inputs, CLASSES)).astype(np.float32)
        return self.network(
            self.op("Gemm", [pooled], {"head.weight": weight, "head.bias": np.zeros(CLASSES, np.float32)})
        )

    def network(self, y: str) -> ModelProto:
        """Return the network with one output; its axis of samples is free."""
        ends = [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", *self.values[name].shape[1:]])
            for name in ("x", y)
        ]
        tensors = [numpy_helper.from_array(array, name) for name, array in self.weights.items()]
        graph = helper.make_graph(self.nodes, "network", ends[:1], ends[1:], tensors)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR)

    @staticmethod
    def _run(node: NodeProto, feeds: dict[str, Floats], weights: dict[str, NDArray[Any]]) -> Floats:
        y = node.output[0]
        graph = helper.make_graph(
            [node],
            "node",
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, array.shape) for name, array in feeds.items()],
            [helper.make_tensor_value_info(y, TensorProto.FLOAT, None)],
            [numpy_helper.from_array(array, name) for name, array in weights.items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR)
        return open_session(model).run(feeds)[y]


def started(side: int = SIDE) -> Builder:
    """Begin a network of images, square and in three colours."""
    return Builder(np.random.default_rng(0), values={"x": noise(PROBES, 3, side, side)})


def resnet50() -> ModelProto:
    """Build the layers of ResNet-50 as torchvision has them: the stride is in the 3 x 3 convolution."""
    net = started()
    x = net.op("Relu", [net.conv("x", 64, 7, 2)])
    x = net.op("MaxPool", [x], kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    for stage, blocks in enumerate((3, 4, 6, 3)):
        width = 64 << stage
        for block in range(blocks):
            stride = 2 if stage and not block else 1
            y = net.op("Relu", [net.conv(x, width)])
            y = net.op("Relu", [net.conv(y, width, 3, stride)])
            y = net.conv(y, 4 * width)
            x = net.op("Relu", [net.op("Add", [y, x if block else net.conv(x, 4 * width, 1, stride)])])
    return net.head(x)


def mobilenet_v2() -> ModelProto:
    """Build the layers of MobileNetV2 at width 1."""
    net = started()

    def clipped(x: str) -> str:
        return net.op("Clip", [x], {f"n{len(net.nodes)}.low": np.float32(0), f"n{len(net.nodes)}.high": np.float32(6)})

    x, inputs = clipped(net.conv("x", 32, 3, 2)), 32
    rows = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
    for expand, outputs, blocks, first_stride in rows:
        for block in range(blocks):
            stride = first_stride if not block else 1
            wide = expand * inputs
            y = x if expand == 1 else clipped(net.conv(x, wide))
            y = net.conv(clipped(net.conv(y, wide, 3, stride, wide)), outputs)
            x = net.op("Add", [y, x]) if block else y
            inputs = outputs
    return net.head(clipped(net.conv(x, 1280)))


def text_lines(count: int, height: int, width: int) -> Floats:
    """Draw dark smooth strokes on light paper, normalized to -1..1, (count, 3, height, width)."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    t = np.linspace(0, 1, POINTS, dtype=np.float32)[:, None]
    lines = np.empty((count, 3, height, width), np.float32)
    for line in lines:
        ink = np.zeros((height, width), np.float32)
        for start in np.linspace(0.02, 0.95, STROKES) * width:
            # A quadratic curve through three points of a letter's box.
            a, b, c = rng.uniform([start, 0.15 * height], [start + 0.5 * height, 0.85 * height], (3, 2))
            for px, py in (1 - t) ** 2 * a + 2 * t * (1 - t) * b + t**2 * c:
                np.maximum(ink, np.exp(-((columns - px) ** 2 + (rows - py) ** 2) / (2 * WIDTH**2)), out=ink)
        paper, pen = rng.uniform(0.75, 1, (3, 1, 1)), rng.uniform(0, 0.3, (3, 1, 1))
        line[:] = 2 * (paper + (pen - paper) * ink) - 1
    return lines
