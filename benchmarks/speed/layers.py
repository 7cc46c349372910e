"""Single layers of the kinds that networks consist of, with random weights, behind a ReLU that reads noise."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper

from benchmarks.speed.networks import Subject, noise
from onnxpfp.data.inputs import input_specs
from onnxpfp.data.sources import load_samples
from onnxpfp.linear.ops import LinearOp, Window

__all__ = ["LAYERS", "Layer", "layer_input", "lone", "subject_of_layer"]

OPSET, IR = 17, 8
LEAST, MOST = 8, 64
TIMED_MACS = 6_000_000_000
IMAGE_BYTES = 256 << 20


@dataclass(frozen=True, slots=True)
class Layer:
    """A convolution, or a linear layer where there are no positions.

    Attributes:
        inputs: Channels that it reads.
        outputs: Channels that it makes.
        side: Height and width of what it reads; 0 for a linear layer.
        kernel: Height and width of its window.
        stride: Of the window.
        depthwise: Whether each output reads one channel.
    """

    inputs: int
    outputs: int
    side: int
    kernel: int = 1
    stride: int = 1
    depthwise: bool = False

    @property
    def title(self) -> str:
        """What it is, as tables show it."""
        if not self.side:
            return f"linear {self.inputs} → {self.outputs}"
        kind = f"{self.kernel}x{self.kernel}{' depthwise' if self.depthwise else ''}"
        stride = f", stride {self.stride}" if self.stride > 1 else ""
        return f"{kind} {self.inputs} → {self.outputs} @{self.side}{stride}"

    @property
    def window(self) -> Window:
        """How it slides."""
        if not self.side:
            return Window()
        return Window(strides=(self.stride,) * 2, pads=(self.kernel // 2,) * 4)

    @property
    def group(self) -> int:
        """Number of convolution groups."""
        return self.inputs if self.depthwise else 1

    def input_shape(self, images: int) -> tuple[int, ...]:
        """Shape of what it reads."""
        return (images, self.inputs, *(self.side,) * (2 if self.side else 0))

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Shape of what it makes for one image."""
        return (1, self.outputs, *(-(-self.side // self.stride),) * (2 if self.side else 0))

    @property
    def batch(self) -> int:
        """Images in one run; a linear layer has one position in each."""
        return 16 if self.side else 64

    @property
    def further(self) -> int:
        """Batches behind the first: enough to tell their time from that of a start, no more than memory allows."""
        macs = self.inputs // self.group * self.kernel**2 * math.prod(self.output_shape)
        in_memory = IMAGE_BYTES // (4 * math.prod(self.input_shape(self.batch)))
        return max(LEAST, min(MOST, TIMED_MACS // (macs * self.batch), in_memory))

    @property
    def weight(self) -> NDArray[np.float32]:
        """Normal weights, conv (O, C/g, k, k) or linear (C, O), that keep activations as large as they were."""
        per_group = self.inputs // self.group
        kernel = (self.kernel,) * 2
        shape = (self.outputs, per_group, *kernel) if self.side else (self.inputs, self.outputs)
        return noise(*shape) * np.float32(math.sqrt(2 / (per_group * self.kernel**2)))


LAYERS = {
    layer.title: layer
    for layer in (
        Layer(256, 64, 56),
        Layer(64, 256, 56),
        Layer(64, 64, 56, 3),
        Layer(512, 512, 7, 3),
        Layer(2048, 512, 7),
        Layer(256, 256, 14, 3),
        Layer(128, 128, 56, 3, stride=2),
        Layer(16, 16, 32, 3),
        Layer(64, 64, 8, 3),
        Layer(96, 24, 28),
        Layer(144, 144, 56, 3, depthwise=True),
        Layer(4096, 1000, 0),
    )
}
"""Most are those of the prototype's table (ResNet-50, ResNet-20, MobileNetV2, VGG)."""


def subject_of_layer(layer: Layer, images: int) -> Subject:
    """Make a network of a ReLU and the layer, whose only linear op is the layer."""
    model = _model(layer, behind_relu=True)
    samples = load_samples(noise(*layer.input_shape(images)), input_specs(model))
    op = LinearOp(
        name="layer",
        kind="conv" if layer.side else "matmul",
        data="a",
        data_shape=layer.input_shape(1),
        axis=1,
        channels=np.arange(1, layer.inputs + 1),
        weight=layer.weight,
        output_shape=layer.output_shape,
        group=layer.group,
        attributes=layer.window,
    )
    return Subject(model, (op,), samples)


def lone(layer: Layer) -> ModelProto:
    """Return the layer alone, which reads `a`."""
    return _model(layer, behind_relu=False)


def layer_input(layer: Layer, images: int) -> NDArray[np.float32]:
    """Return what the layer alone has to read to do what it does behind the ReLU."""
    return np.maximum(noise(*layer.input_shape(images)), 0)


def _model(layer: Layer, *, behind_relu: bool) -> ModelProto:
    nodes = [helper.make_node("Relu", ["x"], ["a"], name="relu")] if behind_relu else []
    if layer.side:
        window = layer.window.as_attributes()
        nodes.append(helper.make_node("Conv", ["a", "w"], ["y"], name="layer", group=layer.group, **window))
    else:
        nodes.append(helper.make_node("Gemm", ["a", "w"], ["y"], name="layer"))
    read = helper.make_tensor_value_info(
        "x" if behind_relu else "a", TensorProto.FLOAT, ["N", *layer.input_shape(1)[1:]]
    )
    made = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", *layer.output_shape[1:]])
    graph = helper.make_graph(nodes, "layer", [read], [made], [numpy_helper.from_array(layer.weight, "w")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR)
