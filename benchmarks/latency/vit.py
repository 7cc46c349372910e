"""A vision transformer as a graph with random weights, made without torch: the layers of ViT-S/16, mean-pooled."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

__all__ = ["GraphBuilder", "vit_small"]

OPSET, IR = 17, 8
SIDE, PATCH, WIDTH, HEADS, DEPTH, CLASSES = 224, 16, 384, 6, 12, 1000
TOKENS, HEAD = (SIDE // PATCH) ** 2, WIDTH // HEADS
SPREAD = 0.3
"""Standard deviation of the gains and shifts of normalizations, so that no two channels are alike."""

Floats = NDArray[np.float32]


@dataclass(slots=True, eq=False)
class GraphBuilder:
    """A graph that grows node by node."""

    rng: np.random.Generator
    nodes: list[NodeProto] = field(default_factory=list[NodeProto])
    tensors: list[TensorProto] = field(default_factory=list[TensorProto])

    def tensor(self, array: NDArray[np.generic]) -> str:
        """Store a constant; return its name."""
        name = f"t{len(self.tensors)}"
        self.tensors.append(numpy_helper.from_array(array, name))
        return name

    def numbers(self, *integers: int) -> str:
        """Store whole numbers."""
        return self.tensor(np.array(integers, np.int64))

    def normal(self, *shape: int, spread: float, mean: float = 0.0) -> str:
        """Store random numbers."""
        return self.tensor(self.rng.normal(mean, spread, shape).astype(np.float32))

    def op(self, kind: str, *inputs: str, **attributes: object) -> str:
        """Append a node with one output; return it."""
        name = f"n{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], name=name, **attributes))
        return name

    def linear(self, x: str, inputs: int, outputs: int, gain: float = 1.0) -> str:
        """Append a matrix that keeps the variance of its input, times a gain, and a bias."""
        product = self.op("MatMul", x, self.normal(inputs, outputs, spread=gain * inputs**-0.5))
        return self.op("Add", product, self.normal(outputs, spread=0.1 * gain))

    def norm(self, x: str, width: int = WIDTH) -> str:
        """Append a normalization over the last axis."""
        scale, shift = self.normal(width, spread=SPREAD, mean=1.0), self.normal(width, spread=SPREAD)
        return self.op("LayerNormalization", x, scale, shift, axis=-1, epsilon=1e-6)

    def gelu(self, x: str) -> str:
        """Append x (1 + erf(x / sqrt 2)) / 2, in the ops that torch exports."""
        half, one, root = (self.tensor(np.float32(value)) for value in (0.5, 1.0, 2**0.5))
        inner = self.op("Add", self.op("Erf", self.op("Div", x, root)), one)
        return self.op("Mul", self.op("Mul", x, inner), half)

    def attention(self, x: str, gain: float) -> str:
        """Append self-attention with the projections of queries, keys and values in one matrix."""
        mixed = self.op("Reshape", self.linear(x, WIDTH, 3 * WIDTH), self.numbers(0, TOKENS, 3, HEADS, HEAD))
        parts = self.op("Transpose", mixed, perm=[2, 0, 3, 1, 4])
        q, k, v = (self.op("Gather", parts, self.tensor(np.int64(i)), axis=0) for i in range(3))
        scores = self.op("MatMul", q, self.op("Transpose", k, perm=[0, 1, 3, 2]))
        scaled = self.op("Mul", scores, self.tensor(np.float32(HEAD**-0.5)))
        mean = self.op("MatMul", self.op("Softmax", scaled, axis=-1), v)
        joined = self.op("Reshape", self.op("Transpose", mean, perm=[0, 2, 1, 3]), self.numbers(0, TOKENS, WIDTH))
        return self.linear(joined, WIDTH, WIDTH, gain)

    def classifier(self, pooled: str, width: int) -> ModelProto:
        """Append a linear layer of classes; return the network of images."""
        head = self.normal(width, CLASSES, spread=width**-0.5)
        y = self.op("Gemm", pooled, head, self.tensor(np.zeros(CLASSES, np.float32)))
        graph = helper.make_graph(
            self.nodes,
            "network",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, SIDE, SIDE])],
            [helper.make_tensor_value_info(y, TensorProto.FLOAT, ["N", CLASSES])],
            self.tensors,
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR)


def vit_small() -> ModelProto:
    """Build it; the residual branches are so small that the stream keeps its size with the depth."""
    net = GraphBuilder(np.random.default_rng(0))
    gain = (2 * DEPTH) ** -0.5
    filters = net.normal(WIDTH, 3, PATCH, PATCH, spread=(3 * PATCH**2) ** -0.5)
    patches = net.op("Conv", "x", filters, net.normal(WIDTH, spread=SPREAD), strides=[PATCH] * 2)
    rows = net.op("Transpose", net.op("Reshape", patches, net.numbers(0, WIDTH, TOKENS)), perm=[0, 2, 1])
    x = net.op("Add", rows, net.normal(1, TOKENS, WIDTH, spread=SPREAD))
    for _ in range(DEPTH):
        x = net.op("Add", x, net.attention(net.norm(x), gain))
        wide = net.gelu(net.linear(net.norm(x), WIDTH, 4 * WIDTH))
        x = net.op("Add", x, net.linear(wide, 4 * WIDTH, WIDTH, gain))
    pooled = net.op("ReduceMean", net.norm(x), axes=[1], keepdims=0)
    return net.classifier(pooled, WIDTH)
