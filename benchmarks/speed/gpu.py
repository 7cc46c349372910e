"""Measure the sensitivities on CUDA: beside the forward pass there, against the CPU, and over several GPUs.

    python -m benchmarks.speed.exports DIR resnet50      # once, with torch and torchvision
    python -m benchmarks.speed.gpu --networks DIR [--images 256] [--batch 32] [--rounds 3]

Images are noise. Every GPU has a process of its own, which measures its share of the images; their statistics are
merged. Forward pass and sensitivities take turns in it, and all processes begin a turn together. Writes
`results/gpu.md`. Without a GPU that onnxruntime can use there is nothing to measure, and that is an error.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import reduce
from multiprocessing import get_context
from pathlib import Path
from threading import Barrier

import numpy as np
from onnx import ModelProto, TensorProto, helper

from benchmarks.speed.machine import machine
from benchmarks.speed.measure import largest_difference, spent
from benchmarks.speed.networks import NETWORKS, Places, file_of, images_of, subject_of
from benchmarks.speed.tables import table
from onnxpfp.calibrate.collect import calibrate
from onnxpfp.calibrate.statistics import Statistics, merged
from onnxpfp.errors import OnnxPfpError, ProviderError
from onnxpfp.runtime.session import open_session

NETWORK = "resnet50"
TURN_SECONDS = 900
"""A process that waits so long for the others gives up."""


@dataclass(frozen=True, slots=True)
class Work:
    """What is measured.

    Attributes:
        images: How many there are in all.
        batch: Images in one run.
        rounds: Turns of forward pass and sensitivities.
        places: Where the network is.
    """

    images: int
    batch: int
    rounds: int
    places: Places


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """What one process measured: seconds by the clock, by round, and the statistics of its images."""

    forward: tuple[float, ...]
    seconds: tuple[float, ...]
    statistics: Statistics


def main() -> int:
    """Measure and write the results file; return the code of the error where nothing can be measured."""
    options = _parser().parse_args()
    work = Work(options.images, options.batch, options.rounds, Places(options.networks, options.networks))
    try:
        gpus = _gpus()
        file_of(NETWORK, work.places)
    except (OnnxPfpError, FileNotFoundError) as error:
        hint = getattr(error, "hint", "")
        print(f"Error: {error}{f' ({hint})' if hint else ''}", file=sys.stderr)
        return getattr(error, "exit_code", 1)
    results = {count: _together(work, count) for count in dict.fromkeys((1, gpus))}
    options.results.mkdir(parents=True, exist_ok=True)
    (options.results / "gpu.md").write_text(_page(work, results, _on_cpu(work)), encoding="utf-8")
    return 0


def _gpus() -> int:
    """Count the GPUs on which a session can be made.

    Raises:
        ProviderError: There is none; it says why.
    """
    open_session(_smallest(), "cuda")
    count = 1
    while True:
        try:
            open_session(_smallest(), f"cuda:{count}")
        except ProviderError:
            return count
        count += 1


def _smallest() -> ModelProto:
    """Return a model of one node."""
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "smallest", [x], [y])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _together(work: Work, count: int) -> list[Found]:
    """Measure on some GPUs at once, each in its process."""
    context = get_context("spawn")
    with context.Manager() as manager, ProcessPoolExecutor(count, mp_context=context) as pool:
        turn = manager.Barrier(count, timeout=TURN_SECONDS)
        running = [pool.submit(_on_gpu, work, device, count, turn) for device in range(count)]
        return [each.result() for each in running]


def _on_gpu(work: Work, device: int, count: int, turn: Barrier) -> Found:
    """Measure one GPU's part of the images; the first turn, in which everything is loaded, is left out."""
    images = np.array_split(images_of(NETWORK, work.images, work.places), count)[device]
    subject = subject_of(NETWORK, images, work.places)
    provider = f"cuda:{device}"
    plain = open_session(subject.model, provider)
    feeds = list(subject.samples.batches(work.batch))

    def forward() -> None:
        for feed in feeds:
            plain.run(feed)

    def measure() -> Statistics:
        return calibrate(subject.model, subject.ops, subject.samples, batch_size=work.batch, providers=provider)

    before: list[float] = []
    ours: list[float] = []
    found: Statistics = {}
    for _ in range(1 + work.rounds):
        turn.wait()
        before.append(spent(forward)[0].wall)
        turn.wait()
        took, found = spent(measure)
        ours.append(took.wall)
    return Found(tuple(before[1:]), tuple(ours[1:]), found)


def _on_cpu(work: Work) -> Statistics:
    """Measure the same images on the CPU."""
    subject = subject_of(NETWORK, images_of(NETWORK, work.images, work.places), work.places)
    return calibrate(subject.model, subject.ops, subject.samples, batch_size=work.batch)


def _page(work: Work, results: dict[int, list[Found]], reference: Statistics) -> str:
    """Write the results; of several GPUs the slowest counts in every turn."""
    body: list[list[str]] = []
    for count, found in results.items():
        forward, seconds = (
            [max(turn) for turn in zip(*(getattr(each, name) for each in found), strict=True)]
            for name in ("forward", "seconds")
        )
        together = reduce(merged, (each.statistics for each in found))
        ratio = statistics.median(ours / plain for ours, plain in zip(seconds, forward, strict=True))
        cells = [f"{statistics.median(each):.3f}" for each in (forward, seconds)]
        body.append([str(count), *cells, f"{ratio:.1f}", f"{largest_difference(together, reference):.1e}"])
    return "\n\n".join(
        [
            "# Sensitivities on CUDA",
            f"Made by `python -m benchmarks.speed.gpu`: {NETWORKS[NETWORK]}, {work.images} images of noise in batches "
            f"of {work.batch}. Seconds by the clock, medians of {work.rounds} turns, TF32 off. The ratio is (forward "
            "pass + sensitivities) / forward pass on the same GPUs, each as a user calls it: images come from "
            "the host. The difference is the largest relative one of a sensitivity from the CPU.",
            table(["GPUs", "forward, s", "`calibrate`, s", "ratio", "difference"], body, left=0),
            f"{_graphics()}; {machine()}\n",
        ]
    )


def _graphics() -> str:
    """Name the GPUs."""
    command = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return " / ".join(f"{line.strip().replace(',', ', driver', 1)}" for line in said.splitlines())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0], allow_abbrev=False)
    parser.add_argument("--networks", type=Path, required=True, help="folder with the file of benchmarks.speed.exports")
    parser.add_argument("--results", type=Path, default=Path(__file__).parents[1] / "results")
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
