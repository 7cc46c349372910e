"""Prune the CIFAR-10 ResNets without training and measure the accuracy on 5,000 test images.

    python benchmarks/cifar10.py --shared ../shared [--results benchmarks/results]

`--shared` holds `models/cifar10_*.onnx` and `data/cifar10_{calib1k,test5k}.npz`. Every model goes through the
command line with 512 unlabelled images and `--keep-macs 0.7`, in the ways of `WAYS`. MACs of the written files
are counted here, by other code than onnxpfp's. The kept channels of the three exports of ResNet-20 are compared
layer by layer.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

MODELS = ("resnet20_bn", "resnet20_folded", "resnet20_dynamo", "resnet56_bn", "resnet56_folded")
MEAN, STD = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])
CALIBRATION, BATCH, ROUNDS = 512, 50, 15
MACS, PARAMS = ("--keep-macs", "0.7"), ("--keep-params", "0.7")
WAYS = {
    "deterministic, no compensation": (*MACS, "--select", "deterministic", "--compensate", "none"),
    "deterministic": (*MACS, "--select", "deterministic"),
    "auto (the default)": MACS,
    "--score energy": (*MACS, "--score", "energy"),
    "--score energy --round-to 8": (*MACS, "--score", "energy", "--round-to", "8"),
    "--keep-params 0.7": PARAMS,
    "--keep-params 0.7 --score energy": (*PARAMS, "--score", "energy"),
}
"""What is asked for; the target is 0.7 of the MACs where a name does not say otherwise."""
PEERS = {"resnet20": "18.4 / 45.7", "resnet56": "62.7 / 83.4"}
"""Top-1 of onnxsim 0.8.1 with L2 and with Wanda at 0.70 of the parameters (BatchNormalization folded)."""


@dataclass(frozen=True)
class Row:
    """One model, pruned one way."""

    model: str
    way: str
    macs: float
    params: float
    dense: float
    top1: float
    speedup: float
    seconds: float


def images(file: Path) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Read images as the networks want them, (N, 3, 32, 32) float32, and their labels."""
    data = np.load(file)
    return ((data["images"].astype(np.float32) / 255 - MEAN) / STD).transpose(0, 3, 1, 2).copy(), data["labels"]


def macs(file: Path) -> int:
    """Count multiply-adds of Conv and Gemm from the file's own shapes, for one image."""
    model = onnx.load(file)
    for info in model.graph.input:
        info.type.tensor_type.shape.dim[0].dim_value = 1
    del model.graph.value_info[:]
    inferred = onnx.shape_inference.infer_shapes(model).graph
    shape = {i.name: [d.dim_value for d in i.type.tensor_type.shape.dim] for i in inferred.value_info}
    shape |= {i.name: [d.dim_value for d in i.type.tensor_type.shape.dim] for i in inferred.output}
    weight = {t.name: list(t.dims) for t in inferred.initializer}
    for node in inferred.node:
        if node.op_type == "Identity" and node.input[0] in weight:
            weight[node.output[0]] = weight[node.input[0]]
    total = 0
    for node in inferred.node:
        if node.op_type == "Conv":
            total += math.prod(shape[node.output[0]][2:]) * math.prod(weight[node.input[1]])
        elif node.op_type == "Gemm":
            total += math.prod(weight[node.input[1]])
    return total


def session(file: Path) -> ort.InferenceSession:
    """Open a model on one thread."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return ort.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])


def top1(file: Path, x: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    """Measure the accuracy in percent."""
    run = session(file)
    name = run.get_inputs()[0].name
    free = isinstance(run.get_inputs()[0].shape[0], str)
    size = BATCH if free else 1
    found = np.concatenate([run.run(None, {name: x[i : i + size]})[0].argmax(1) for i in range(0, len(x), size)])
    return float(100 * (found == labels).mean())


def speedup(dense: Path, pruned: Path, x: NDArray[np.float32]) -> float:
    """Median of the ratio of run times, the two models in turn in one process."""
    runs = [session(dense), session(pruned)]
    size = BATCH if isinstance(runs[0].get_inputs()[0].shape[0], str) else 1
    ratios = []
    for _ in range(ROUNDS):
        took = []
        for run in runs:
            start = time.perf_counter()
            for i in range(0, BATCH, size):
                run.run(None, {run.get_inputs()[0].name: x[i : i + size]})
            took.append(time.perf_counter() - start)
        ratios.append(took[0] / took[1])
    return statistics.median(ratios)


def prune(source: Path, out: Path, calibration: Path, more: tuple[str, ...]) -> dict[str, object]:
    """Run the command and return its report."""
    flags = ["--calib-data", str(calibration)]
    flags += [*more, "--plan", str(out.with_suffix(".json")), "--json", "-"]
    command = [sys.executable, "-m", "onnxpfp", "prune", str(source), str(out), *flags]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def kept_channels(source: Path, plan: Path) -> list[tuple[tuple[int, ...], ...]]:
    """Return what each convolution keeps of its filters and inputs, in the order of the graph."""
    entries = json.loads(plan.read_text())["initializers"]
    model = onnx.load(source)
    shape = {t.name: list(t.dims) for t in model.graph.initializer}
    kept = []
    for node in model.graph.node:
        if node.op_type == "Conv":
            keep = entries.get(node.input[1], {"keep": {}})["keep"]
            full = shape[node.input[1]]
            kept.append(tuple(tuple(keep.get(str(axis), range(full[axis]))) for axis in (0, 1)))
    return kept


def differing(kept: dict[str, list[tuple[tuple[int, ...], ...]]]) -> int:
    """Count the (layer, axis) pairs in which not all exports keep the same channels."""
    layers = zip(*kept.values(), strict=True)
    return sum(len({each[axis] for each in layer}) > 1 for layer in layers for axis in (0, 1))


def main() -> None:
    """Run everything and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shared", type=Path, required=True)
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    x, labels = images(options.shared / "data" / "cifar10_test5k.npz")
    rows: list[Row] = []
    kept: dict[str, list[tuple[tuple[int, ...], ...]]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        calibration = Path(scratch) / "calibration.npz"
        np.savez(calibration, images(options.shared / "data" / "cifar10_calib1k.npz")[0][:CALIBRATION])
        for name in MODELS:
            source, out = options.shared / "models" / f"cifar10_{name}.onnx", Path(scratch) / f"{name}.onnx"
            dense = top1(source, x, labels)
            for way, more in WAYS.items():
                report = prune(source, out, calibration, more)
                share = report["after"]["params"] / report["before"]["params"]
                seconds = sum(report["seconds"].values())
                accuracy, gain = top1(out, x, labels), speedup(source, out, x)
                share_macs = macs(out) / macs(source)
                rows.append(Row(name, way, share_macs, share, dense, accuracy, gain, seconds))
                print(rows[-1], file=sys.stderr, flush=True)
                if name.startswith("resnet20") and way == "deterministic, no compensation":
                    kept[name] = kept_channels(source, out.with_suffix(".json"))
    text = write(rows, differing(kept))
    options.results.mkdir(exist_ok=True)
    (options.results / "cifar10.md").write_text(text)
    print(text)


def write(rows: list[Row], different: int) -> str:
    """Format the rows as Markdown."""
    lines = [
        "# CIFAR-10, no training, 512 unlabelled images, `--keep-macs 0.7`\n",
        "| model | how | MACs kept | parameters kept | top-1 dense | **top-1 pruned** |"
        " peers: L2 / Wanda | speed-up | seconds |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for r in rows:
        cells = [f"{r.macs:.4f}", f"{r.params:.3f}", f"{r.dense:.2f}", f"**{r.top1:.2f}**"]
        cells += [PEERS[r.model.split("_")[0]], f"{r.speedup:.2f}x", f"{r.seconds:.1f}"]
        lines.append(f"| {r.model} | {r.way} | {' | '.join(cells)} |")
    lines.append(
        "\nTop-1 on 5,000 test images (the peers' figures: 10,000 test images at 0.70 of the parameters). MACs are"
        " counted independently. Speed-up: median ratio of interleaved runs, one thread."
    )
    lines.append(f"(layer, axis) pairs in which the three exports of ResNet-20 keep other channels: {different}")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
