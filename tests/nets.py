"""Small models, and an independent way to run and to count them, for the tests of the pipeline."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, ValueInfoProto, helper, numpy_helper, parser

Array = NDArray[Any]

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared"
CALIBRATION = ROOT / "models" / "fmnist_calibration.npz"
NETWORKS = ("resnet", "densenet", "mobilenet")

CHAIN = """g (float[N,3,8,8] x) => (float[N,5] y) {
    a = Conv <pads = [1,1,1,1]> (x, w1, b1)
    r = Relu(a)
    c = Conv <pads = [1,1,1,1]> (r, w2)
    s = Relu(c)
    p = GlobalAveragePool(s)
    f = Flatten(p)
    y = Gemm <transB = 1> (f, w3, b3)
}"""
CHAIN_SHAPES = {"w1": (8, 3, 3, 3), "b1": (8,), "w2": (10, 8, 3, 3), "w3": (5, 10), "b3": (5,)}


def network(name: str) -> Path:
    """A trained network of `models/`."""
    return ROOT / "models" / f"fmnist_{name}.onnx"


def fmnist(which: str, count: int | None = None) -> Array:
    """Images of `models/`: calibration or test."""
    return np.load(ROOT / "models" / f"fmnist_{which}.npz")["images"][:count]


def build(
    text: str, weights: Mapping[str, tuple[int, ...] | Array], *, dtype: Any = np.float32, opset: int = 17, ir: int = 8
) -> ModelProto:
    """Parse a graph, name its nodes after their outputs and give it weights: arrays, or shapes of noise."""
    model = parser.parse_model(f'<ir_version: {ir}, opset_import: ["" : {opset}]> {text}')
    rng = np.random.default_rng(0)
    for name, given in weights.items():
        array = given if isinstance(given, np.ndarray) else rng.standard_normal(given)
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(array).astype(dtype), name))
    for node in model.graph.node:
        node.name = f"node_{node.output[0]}"
    return model


def chain() -> ModelProto:
    """Two convolutions and a Gemm: 8 and 10 channels can go."""
    return build(CHAIN, CHAIN_SHAPES)


def noise(*shape: int, seed: int = 1, dtype: Any = np.float32) -> Array:
    """Standard normal numbers."""
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def session(model: ModelProto) -> ort.InferenceSession:
    """Open a model without optimisations that move numbers."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def run(model: ModelProto, feed: Mapping[str, Array] | Array) -> Array:
    """Return the first output."""
    opened = session(model)
    feeds = {opened.get_inputs()[0].name: feed} if isinstance(feed, np.ndarray) else dict(feed)
    return np.asarray(opened.run(None, feeds)[0])


def values(model: ModelProto, feed: Mapping[str, Array]) -> dict[str, Array]:
    """Run a model and return every tensor that a node puts out."""
    copy = ModelProto()
    copy.CopyFrom(model)
    names = [name for node in copy.graph.node for name in node.output if name]
    del copy.graph.output[:]
    copy.graph.output.extend(ValueInfoProto(name=name) for name in names)
    return dict(zip(names, session(copy).run(None, dict(feed)), strict=True))


def weights(model: ModelProto) -> dict[str, Array]:
    """Return initializers, and Constant nodes by their output."""
    found = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            found[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
    return found


def count_params(model: ModelProto) -> int:
    """Count the numbers of all float weights."""
    return sum(array.size for array in weights(model).values() if array.dtype.kind == "f")


def count_macs(model: ModelProto, feed: Mapping[str, Array]) -> int:
    """Count multiply-adds from the shapes of a real run of one sample."""
    shapes = {name: array.shape for name, array in {**weights(model), **feed, **values(model, feed)}.items()}
    return sum(count_macs_of(node, shapes) for node in model.graph.node)


def count_macs_of(node: NodeProto, shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Count the multiply-adds of one node, whose tensors have these shapes."""
    if node.op_type not in {"Conv", "ConvTranspose", "Gemm", "MatMul"}:
        return 0
    data, weight, out = shapes[node.input[0]], shapes[node.input[1]], math.prod(shapes[node.output[0]])
    if node.op_type == "Conv":
        return out * math.prod(weight[1:])
    if node.op_type == "ConvTranspose":
        return math.prod(data) * math.prod(weight[1:])
    transposed = {a.name: helper.get_attribute_value(a) for a in node.attribute}.get("transA", 0)
    return out * (data[0] if transposed else data[-1])


def top1(model: ModelProto, count: int = 1000) -> float:
    """Share of the Fashion-MNIST test images that a model names rightly."""
    with np.load(ROOT / "models" / "fmnist_test.npz") as file:
        images, labels = file["images"][:count], file["labels"][:count]
    opened = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return float((opened.run(None, {"images": images})[0].argmax(1) == labels).mean())
