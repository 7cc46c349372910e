"""How long the label analysis takes, and how it grows: residual networks and transformers of several sizes.

    python -m benchmarks.coverage.label_analysis

The networks are built here, node by node; a time is the smallest of several in CPU seconds of the process, for
machines are shared. Writes results/label_analysis.md.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from onnxpfp.channels import Patterns, build_channel_graph
from onnxpfp.model.constants import Constants
from onnxpfp.model.shapes import concrete_shapes

RESULTS = Path(__file__).parents[1] / "results" / "label_analysis.md"
SIZES = (500, 1000, 2000, 4000, 8000)
REPEATS = 7
CHANNELS = 64
TOKENS, HEADS, WIDTH = 16, 4, 16


class Builder:
    """A graph that grows by a node at a time; every result is read by the next."""

    def __init__(self) -> None:
        self.nodes: list[NodeProto] = []
        self.tensors: list[TensorProto] = []
        self.rng = np.random.default_rng(0)

    def weight(self, *shape: int) -> str:
        """Add a weight."""
        name = f"w{len(self.tensors)}"
        array = self.rng.standard_normal(shape).astype(np.float32)
        self.tensors.append(numpy_helper.from_array(array, name))
        return name

    def numbers(self, *values: int) -> str:
        """Add a constant with which shapes are computed."""
        name = f"k{len(self.tensors)}"
        self.tensors.append(numpy_helper.from_array(np.array(values, np.int64), name))
        return name

    def op(self, kind: str, *inputs: str, **attributes: object) -> str:
        """Add a node."""
        name = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], name=name, **attributes))
        return name

    def model(self, shape: list[int | str], output: str) -> ModelProto:
        """Put everything together."""
        graph = helper.make_graph(
            self.nodes,
            "grown",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)],
            self.tensors,
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def residual(size: int) -> ModelProto:
    """A residual network: two convolutions with normalization and activation, an Add, a concatenation now and then."""
    b = Builder()
    x = b.op("Conv", "x", b.weight(CHANNELS, 3, 1, 1))
    while len(b.nodes) < size - 2:
        y = x
        for _ in range(2):
            y = b.op("Conv", y, b.weight(CHANNELS, CHANNELS, 3, 3), pads=[1, 1, 1, 1])
            y = b.op("BatchNormalization", y, *(b.weight(CHANNELS) for _ in range(3)), variance(b))
            y = b.op("Relu", y)
        x = b.op("Add", x, y)
    x = b.op("GlobalAveragePool", x)
    return b.model([1, 3, 8, 8], b.op("Conv", x, b.weight(10, CHANNELS, 1, 1)))


def variance(b: Builder) -> str:
    """Add a weight of ones."""
    name = f"w{len(b.tensors)}"
    b.tensors.append(numpy_helper.from_array(np.ones(CHANNELS, np.float32), name))
    return name


def transformer(size: int) -> ModelProto:
    """A transformer as TorchScript exports it: shapes computed in the graph, heads by Reshape and Transpose."""
    b = Builder()
    hidden = HEADS * WIDTH
    x = b.op("MatMul", "x", b.weight(8, hidden))
    while len(b.nodes) < size - 2:
        n = b.op("LayerNormalization", x, b.weight(hidden), b.weight(hidden))
        shape = b.op("Shape", n)
        batch = b.op("Gather", shape, b.numbers(0))
        target = b.op("Concat", batch, b.numbers(TOKENS), b.numbers(HEADS), b.numbers(WIDTH), axis=0)
        heads: list[str] = []
        for _ in range(3):
            q = b.op("Add", b.op("MatMul", n, b.weight(hidden, hidden)), b.weight(hidden))
            heads.append(b.op("Transpose", b.op("Reshape", q, target), perm=[0, 2, 1, 3]))
        keys = b.op("Transpose", heads[1], perm=[0, 1, 3, 2])
        attention = b.op("Softmax", b.op("MatMul", heads[0], keys), axis=-1)
        y = b.op("Transpose", b.op("MatMul", attention, heads[2]), perm=[0, 2, 1, 3])
        y = b.op("Reshape", y, b.op("Concat", batch, b.numbers(TOKENS), b.numbers(hidden), axis=0))
        x = b.op("Add", x, b.op("MatMul", y, b.weight(hidden, hidden)))
        y = b.op("Relu", b.op("MatMul", x, b.weight(hidden, 4 * hidden)))
        x = b.op("Add", x, b.op("MatMul", y, b.weight(4 * hidden, hidden)))
    return b.model(["N", TOKENS, 8], b.op("MatMul", x, b.weight(hidden, 10)))


def measure(build: Callable[[int], ModelProto], size: int) -> tuple[int, int, float]:
    """Return the number of nodes, of channels, and the smallest CPU seconds of an analysis."""
    model = build(size)
    shapes, constants = concrete_shapes(model, {}), Constants.of(model)
    best, channels = float("inf"), 0
    for _ in range(REPEATS):
        start = time.process_time()
        channels = build_channel_graph(model, shapes, constants, Patterns()).count
        best = min(best, time.process_time() - start)
    return len(model.graph.node), channels, best


def main() -> None:
    """Measure all sizes and write the table."""
    lines = [
        "# Label analysis",
        "",
        "Labels, ties, components, groups and the trial of spelt numbers (`channels.analyse`); shapes are known.",
        f"Smallest of {REPEATS}, CPU seconds. Python {platform.python_version()}, {platform.machine()}.",
        "",
        "| network | nodes | channels | seconds | microseconds a node |",
        "|---|---:|---:|---:|---:|",
    ]
    for name, build in (("residual", residual), ("transformer, TorchScript form", transformer)):
        for size in SIZES:
            nodes, channels, seconds = measure(build, size)
            lines.append(f"| {name} | {nodes} | {channels} | {seconds:.3f} | {1e6 * seconds / nodes:.0f} |")
            print(lines[-1])
    RESULTS.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
