"""Small models and data for the tests of the command line."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto, numpy_helper, parser

EXISTING = b"what was there before"
"""Content of an output of an earlier run."""
HEADER = '<ir_version: {ir}, opset_import: ["" : {opset}]>'
CHAIN = "g (float[N,3,8,8] x) => (float[N,4,4,4] y) {{ a = Conv(x, w1) b = {op}(a) y = Conv(b, w2) }}"
TWO_INPUTS = (
    "g (float[N,5] a, float[N,4] b) => (float[N,3] y) "
    "{ h = Gemm(a, w1) k = Gemm(b, w2) s = Add(h, k) r = Relu(s) y = Gemm(r, w3) }"
)
SHAPES = {"w1": (6, 3, 3, 3), "w2": (4, 6, 3, 3)}
TWO_SHAPES = {"w1": (5, 8), "w2": (4, 8), "w3": (8, 3)}


def build(text: str, weights: Mapping[str, tuple[int, ...]], *, opset: int = 17, ir: int = 8) -> ModelProto:
    """Parse a graph and give it weights; its nodes are called like their outputs."""
    model = parser.parse_model(HEADER.format(ir=ir, opset=opset) + text)
    rng = np.random.default_rng(0)
    for name, shape in weights.items():
        array = rng.standard_normal(shape).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    for node in model.graph.node:
        node.name = f"node_{node.output[0]}"
    return model


def chain(*, op: str = "Relu", opset: int = 17, ir: int = 8) -> ModelProto:
    """Two convolutions; the six channels between them can go."""
    return build(CHAIN.format(op=op), SHAPES, opset=opset, ir=ir)


def images(count: int = 16) -> np.ndarray:
    """Samples for `chain`."""
    return np.random.default_rng(1).standard_normal((count, 3, 8, 8)).astype(np.float32)


def save_external(folder: Path, name: str) -> Path:
    """Save `chain` with its weights in a file of their own."""
    path = folder / f"{name}.onnx"
    onnx.save(chain(), path, save_as_external_data=True, location=f"{name}.data", size_threshold=0)
    return path
