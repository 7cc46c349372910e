"""What is measured on a written file; nothing here is onnxpfp's code."""

from __future__ import annotations

import math
import statistics
import time
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import GraphProto

__all__ = ["classes", "macs", "params", "speedup", "top1"]

BATCH, TIMED, ROUNDS = 50, 50, 11
PRODUCTS = {"Conv", "Gemm"}
UNCOUNTED = {"ConvTranspose", "MatMul", "Einsum"}
"""They multiply as well, but no network of the benchmark has them."""

Floats = NDArray[np.float32]


def macs(file: Path) -> int:
    """Count the multiply-adds of Conv and Gemm for one image, from the shapes that onnx infers anew.

    Raises:
        ValueError: The file has other products, or a shape is not known.
    """
    graph, weight = _inferred(file)
    shape = {i.name: [d.dim_value for d in i.type.tensor_type.shape.dim] for i in (*graph.value_info, *graph.output)}
    total = 0
    for node in graph.node:
        if node.op_type in UNCOUNTED:
            raise ValueError(f"{file}: {node.op_type} '{node.name}' is not counted")
        if node.op_type in PRODUCTS:
            places = math.prod(shape[node.output[0]][2:])
            if not places:
                raise ValueError(f"{file}: the shape of '{node.output[0]}' is not known")
            total += places * math.prod(weight[node.input[1]])
    return total


def params(file: Path) -> int:
    """Count the weights of Conv and Gemm; biases and normalizations are none, so that folding changes nothing."""
    graph, weight = _inferred(file)
    return sum(math.prod(weight[node.input[1]]) for node in graph.node if node.op_type in PRODUCTS)


def _inferred(file: Path) -> tuple[GraphProto, dict[str, list[int]]]:
    """Infer shapes for one image; return the graph and the shapes of the weights."""
    model = onnx.load(file)
    for info in model.graph.input:
        info.type.tensor_type.shape.dim[0].dim_value = 1
    # A pruner can have left the shapes of before.
    del model.graph.value_info[:]
    graph = onnx.shape_inference.infer_shapes(model).graph
    weight = {t.name: list(t.dims) for t in graph.initializer}
    for node in graph.node:
        if node.op_type == "Identity" and node.input[0] in weight:
            weight[node.output[0]] = weight[node.input[0]]
    return graph, weight


def classes(file: Path, x: Floats) -> NDArray[np.int64]:
    """Return the class of every image, (N,)."""
    run = _open(file)
    size = _batch(run)
    name = run.get_inputs()[0].name
    parts = [np.asarray(run.run(None, {name: x[i : i + size]})[0]).argmax(1) for i in range(0, len(x), size)]
    return np.concatenate(parts)


def top1(found: NDArray[np.int64], labels: NDArray[np.int64]) -> float:
    """Return the share of equal entries in percent."""
    return round(float(100 * (found == labels).mean()), 2)


def speedup(dense: Path, pruned: Path, x: Floats) -> float:
    """Return the median ratio of processor times over some images, the two files in turn on one thread."""
    runs = [_open(dense), _open(pruned)]
    size = _batch(runs[0])
    feeds = [x[i : i + size] for i in range(0, TIMED, size)]
    ratios: list[float] = []
    for _ in range(ROUNDS):
        took: list[float] = []
        for run in runs:
            start = time.process_time()
            for feed in feeds:
                run.run(None, {run.get_inputs()[0].name: feed})
            took.append(time.process_time() - start)
        ratios.append(took[0] / took[1])
    return round(statistics.median(ratios), 2)


def _open(file: Path) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return ort.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])


def _batch(run: ort.InferenceSession) -> int:
    """Return how many images go in at once: one where the axis is fixed."""
    return BATCH if isinstance(run.get_inputs()[0].shape[0], str) else 1
