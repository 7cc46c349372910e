"""Hold the bounds that `onnxpfp sparsify` prints against the errors of sums, on inputs that it has not seen.

    python -m benchmarks.sparsity.bounds --shared ../shared

Layers are random ones (convolutions and matrix products of several shapes, weights and inputs of both signs) and those
of ResNet-20. A layer is held with the inputs that it has in the original; an error is computed in float64, apart for
the signs of weights and inputs, by `benchmarks.promises.sign_parts`.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper

import onnxpfp
from benchmarks.accuracy.networks import NETWORKS, Folders
from benchmarks.promises.networks_run import Nodes, tensors
from benchmarks.promises.sign_parts import part_errors
from benchmarks.sparsity.page import page
from benchmarks.sparsity.rows import Bounds, append, compact, read

SELECTIONS = ("deterministic", "sampled", "hybrid")
SHAPES = ((4, 6, 3), (8, 8, 3), (16, 12, 1), (6, 16, 5))
"""Of random convolutions: inputs, outputs, kernel; each is followed by a ReLU and a matrix product."""
SIZE = 8
"""Rows and columns of what they read."""
SAMPLES = 200
TOGETHER = 32
ROUNDING = 1e-5, 1e-6
"""Relative and absolute; a bound is broken by more."""

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Case:
    """Layers, and inputs for them.

    Attributes:
        name: "random" or a network.
        file: The model.
        calibration: What the call sees.
        inputs: What it does not see.
    """

    name: str
    file: Path
    calibration: Array
    inputs: Array


def random_network(seed: int) -> ModelProto:
    """Make convolutions and matrix products with weights of a seed, one behind the other or alone."""
    rng = np.random.default_rng(seed)
    nodes: list[Any] = []
    weights: dict[str, Array] = {}
    for number, (inputs, outputs, kernel) in enumerate(SHAPES):
        # Heavy tails, as trained weights have.
        weights[f"w{number}"] = rng.standard_t(3, (outputs, inputs, kernel, kernel)).astype(np.float32)
        weights[f"v{number}"] = rng.standard_t(3, (outputs, 10)).astype(np.float32)
        first = np.full(4, kernel // 2).tolist()
        chain = [
            helper.make_node("Slice", ["x", "zero", f"n{number}", "one"], [f"x{number}"]),
            helper.make_node("Conv", [f"x{number}", f"w{number}"], [f"a{number}"], pads=first),
            helper.make_node("Relu", [f"a{number}"], [f"r{number}"]),
            helper.make_node("GlobalAveragePool", [f"r{number}"], [f"p{number}"]),
            helper.make_node("Flatten", [f"p{number}"], [f"f{number}"]),
            helper.make_node("MatMul", [f"f{number}", f"v{number}"], [f"y{number}"]),
        ]
        for node in chain:
            node.name = f"{node.op_type}{number}"
        nodes += chain
        weights[f"n{number}"] = np.array([inputs], np.int64)
    weights |= {"zero": np.array([0], np.int64), "one": np.array([1], np.int64)}
    graph = helper.make_graph(
        nodes,
        "random",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ("N", max(shape[0] for shape in SHAPES), SIZE, SIZE))],
        [helper.make_tensor_value_info(f"y{number}", TensorProto.FLOAT, ("N", 10)) for number in range(len(SHAPES))],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def bounds_of(case: Case, select: str, keep: float, delta: float, draws: int) -> Bounds:
    """Draw several times, and count how often a layer is further off than its bound."""
    original = onnx.load(case.file)
    nodes = Nodes.of(original)
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in original.graph.initializer}
    options = {"select": select, "keep_weights": keep, "delta": delta, "threads": 1}
    runs = [
        onnxpfp.sparsify(case.file, calibration=case.calibration, seed=seed, **options)
        for seed in range(1 if select == "deterministic" else draws)
    ]
    errors, bounds = [list[Array](), list[Array]()]
    for name, layer in nodes.layers.items():
        weight = layer.canonical(stored[layer.weight])
        changed: list[tuple[Array, NDArray[np.int64]]] = []
        printed: list[float] = []
        for run in runs:
            written = next(t for t in run.model.graph.initializer if t.name == layer.weight)
            after = layer.canonical(numpy_helper.to_array(written))
            changed.append((after, np.arange(after.shape[-1])))
            printed.append(next(e.bound for e in run.report.layers if name in e.nodes) or 0.0)
        for windows in map(layer.windows, tensors(original, case.inputs, layer.data, TOGETHER)):
            errors += part_errors(weight, changed, windows)
            bounds += [np.full(len(windows), bound) for bound in printed]
    worst, bound = np.concatenate(errors), np.concatenate(bounds)
    relative, absolute = ROUNDING
    return Bounds(
        layers=case.name,
        select=select,
        keep=keep,
        delta=delta,
        triples=len(worst),
        below=int((bound < 1).sum()),
        broken=int((worst > bound * (1 + relative) + absolute).sum()),
        error=float(f"{worst.mean():.3g}"),
        bound=float(f"{np.median(bound):.3g}"),
    )


def cases(shared: Path, scratch: Path) -> Iterator[Case]:
    """Yield the layers."""
    file = scratch / "random.onnx"
    onnx.save(random_network(0), file)
    rng = np.random.default_rng(1)
    shape = (max(shape[0] for shape in SHAPES), SIZE, SIZE)
    data = rng.standard_normal((2 * SAMPLES, *shape)).astype(np.float32)
    yield Case("random", file, data[:SAMPLES], data[SAMPLES:])
    network, folders = NETWORKS["resnet20"], Folders(shared, shared)
    images = network.calibration(folders).drawn(0, SAMPLES).x
    yield Case("resnet20", network.file(folders, network.usual), images, network.test(folders).drawn(0, 64).x)


def main() -> None:
    """Make the rows, then the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0], allow_abbrev=False)
    parser.add_argument("--shared", type=Path, required=True, help="folder with the CIFAR-10 networks and images")
    parser.add_argument("--results", type=Path, default=Path(__file__).parents[1] / "results")
    parser.add_argument("--draws", type=int, default=10, help="draws of every choice that is drawn")
    options = parser.parse_args()
    file: Path = options.results / "sparsity.jsonl"
    with tempfile.TemporaryDirectory() as scratch:
        for case in cases(options.shared, Path(scratch)):
            for keep in (0.99, 0.9, 0.5):
                for select in SELECTIONS:
                    delta = 1e-16 if select == "deterministic" else 0.1
                    row = bounds_of(case, select, keep, delta, options.draws)
                    append(file, [row])
                    print(row, flush=True)
    compact(file)
    (options.results / "sparsity.md").write_text(page([*read(file).values()]), encoding="utf-8")


if __name__ == "__main__":
    main()
