"""Memory that it takes to prune a model above 2 GB whose weights lie in other files.

Makes two models of one graph, ten convolutions and 28 matrix products with residuals between them: a small one and one
whose weights take 2.5 GB in two files, the largest 64 MiB. Prunes both with the same commands, with and without data,
and watches the processes. What the small model takes is the floor; above it the large one may take twice its largest
weight.

    python -m benchmarks.coverage.big_model --out FOLDER    # needs 5 GB of disk there; models are deleted afterwards

Memory is anonymous memory (RssAnon and RssShmem of /proc/PID/status): pages of mapped files are not the process's own,
the system takes them back when it needs memory. The largest resident size, which counts them, is printed beside it.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper

from benchmarks.speed.machine import worker

MIB = 1 << 20
CONVOLUTIONS, PRODUCTS = 10, 28
RESULTS = Path(__file__).parents[1] / "results" / "big_model.md"
TARGET = ("--keep-macs", "0.7")
COMMANDS = {"without data": (), "with data": ("--calib-data", "random", "--calib-samples", "8")}


@dataclass(frozen=True)
class Size:
    """Channels of the convolutions and columns of the matrix products."""

    channels: int
    columns: int


SMALL, LARGE = Size(24, 64), Size(1344, 4096)


class Writer:
    """Writes weights to files one at a time, and keeps where they lie."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self.name = folder, name
        self.rng = np.random.default_rng(0)
        self.tensors: list[TensorProto] = []
        self.largest = 0

    def weight(self, name: str, *shape: int, file: str) -> str:
        """Append normal numbers of the scale that keeps activations as large as they were."""
        fan_in = max(1, int(np.prod(shape[1:])) if file == "convolutions" else shape[0])
        array = self.rng.standard_normal(shape, dtype=np.float32) * np.float32(np.sqrt(2 / fan_in))
        path = self.folder / f"{self.name}.{file}.data"
        with path.open("ab") as stream:
            tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=shape)
            tensor.data_location = TensorProto.EXTERNAL
            for key, value in (("location", path.name), ("offset", stream.tell()), ("length", array.nbytes)):
                tensor.external_data.add(key=key, value=str(value))
            array.tofile(stream)
        self.largest = max(self.largest, array.nbytes)
        self.tensors.append(tensor)
        return name


def convolutions(w: Writer, size: Size) -> Iterator[NodeProto]:
    """Residual blocks of two convolutions; the last name is `c{CONVOLUTIONS}`."""
    wide = size.channels
    yield helper.make_node("Conv", ["x", w.weight("stem", wide, 3, 3, 3, file="convolutions")], ["c0"], pads=[1] * 4)
    for number in range(1, CONVOLUTIONS + 1):
        weight = w.weight(f"conv{number}", wide, wide, 3, 3, file="convolutions")
        read, made = ("m" if number % 2 == 0 else "c") + str(number - 1), f"d{number}"
        yield helper.make_node("Conv", [read, weight], [made], pads=[1] * 4)
        if number % 2:
            yield helper.make_node("Relu", [made], [f"m{number}"])
        else:
            yield helper.make_node("Add", [made, f"c{number - 2}"], [f"e{number}"])
            yield helper.make_node("Relu", [f"e{number}"], [f"c{number}"])


def products(w: Writer, size: Size) -> Iterator[NodeProto]:
    """Residual blocks of two matrix products behind a pooling."""
    wide = size.columns
    yield helper.make_node("GlobalAveragePool", [f"c{CONVOLUTIONS}"], ["pooled"])
    yield helper.make_node("Flatten", ["pooled"], ["flat"])
    yield helper.make_node("MatMul", ["flat", w.weight("enter", size.channels, wide, file="products")], ["p0"])
    for number in range(1, PRODUCTS + 1):
        weight = w.weight(f"product{number}", wide, wide, file="products")
        bias = w.weight(f"bias{number}", wide, file="products")
        read = ("r" if number % 2 == 0 else "p") + str(number - 1)
        yield helper.make_node("MatMul", [read, weight], [f"q{number}"])
        yield helper.make_node("Add", [f"q{number}", bias], [f"s{number}"])
        if number % 2:
            yield helper.make_node("Relu", [f"s{number}"], [f"r{number}"])
        else:
            yield helper.make_node("Add", [f"s{number}", f"p{number - 2}"], [f"t{number}"])
            yield helper.make_node("Relu", [f"t{number}"], [f"p{number}"])
    yield helper.make_node("MatMul", [f"p{PRODUCTS}", w.weight("leave", wide, 10, file="products")], ["y"])


def make(folder: Path, name: str, size: Size) -> tuple[Path, int]:
    """Write a model; return its path and the bytes of its largest weight."""
    writer = Writer(folder, name)
    nodes = [*convolutions(writer, size), *products(writer, size)]
    for node in nodes:
        node.name = f"node_{node.output[0]}"
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 4, 4])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 10])
    graph = helper.make_graph(nodes, "big", [x], [y], writer.tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path = folder / f"{name}.onnx"
    path.write_bytes(model.SerializeToString())
    onnx.checker.check_model(str(path))
    return path, writer.largest


@dataclass(frozen=True)
class Run:
    """What a process took: bytes of anonymous memory and resident size at their peaks, and seconds."""

    anonymous: int
    resident: int
    seconds: float


def watch(command: list[str]) -> Run:
    """Run a command and sample its memory until it ends."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    peak, status = 0, ""
    while True:
        done, code, usage = os.wait4(process.pid, os.WNOHANG)
        if done:
            break
        # The worker may end between two lines of this loop.
        with contextlib.suppress(OSError):
            status = Path(f"/proc/{worker(process.pid)}/status").read_text()
        fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
        peak = max(peak, sum(1024 * int(fields.get(name, "0").split()[0]) for name in ("RssAnon", "RssShmem")))
        time.sleep(0.002)
    process.returncode = os.waitstatus_to_exitcode(code)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed")
    return Run(peak, usage.ru_maxrss * 1024, time.perf_counter() - start)


def measure(folder: Path) -> Iterator[str]:
    """Make, prune and delete the models; yield the rows of the table."""
    paths = {}
    for name, size in (("small", SMALL), ("large", LARGE)):
        paths[name], largest = make(folder, name, size)
    total = sum(path.stat().st_size for path in folder.glob("large*"))
    yield f"The large model has {total / 1e9:.2f} GB in {len(list(folder.glob('large*.data')))} files of weights;"
    yield f"its largest weight has {largest / MIB:.0f} MiB. Two of that above the floor are allowed.\n"
    yield "| pruned | floor | peak | above the floor | in largest weights | resident with mapped files | seconds |"
    yield "|---|---|---|---|---|---|---|"
    for title, options in COMMANDS.items():
        runs = {}
        for name, path in paths.items():
            out = folder / f"{name}.pruned.onnx"
            command = [sys.executable, "-m", "onnxpfp", "prune", str(path), str(out), *TARGET, "-q"]
            runs[name] = watch([*command, *options])
            for written in folder.glob(f"{name}.pruned*"):
                written.unlink()
        floor, run = runs["small"], runs["large"]
        above = run.anonymous - floor.anonymous
        yield (
            f"| {title} | {floor.anonymous / MIB:.0f} MiB | {run.anonymous / MIB:.0f} MiB | {above / MIB:.0f} MiB "
            f"| {above / largest:.2f} | {run.resident / MIB:.0f} MiB | {run.seconds:.0f} |"
        )


def main() -> None:
    """Measure, print, and write the table beside this script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for the models, with 5 GB of room")
    folder = parser.parse_args().out
    folder.mkdir(parents=True, exist_ok=True)
    lines = ["# Memory that a 2.5 GB model takes", "", "Made by `python -m benchmarks.coverage.big_model`.", ""]
    lines += [f"- {title}: `onnxpfp prune IN OUT {' '.join((*TARGET, *data))}`" for title, data in COMMANDS.items()]
    lines.append("")
    try:
        for line in measure(folder):
            print(line, flush=True)
            lines.append(line)
    finally:
        for name in ("small", "large"):
            for path in folder.glob(f"{name}*"):
                path.unlink()
    RESULTS.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
