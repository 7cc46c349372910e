"""Hold the two ways to screen sensitivities against each other on one thread of the CPU: numpy, and onnxruntime graphs.

    pip download --no-deps rapidocr-onnxruntime==1.4.4      # a wheel, which need not be installed
    python -m benchmarks.speed.sensitivity_paths --shared ../shared --ocr rapidocr_onnxruntime-1.4.4-py3-none-any.whl

`calibrate` takes the graphs on CUDA only. Here it is made to take the CPU for a device; all else is what a user gets.
Both take turns in one process. Writes `results/sensitivity_paths.md`.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from unittest import mock

import onnx
from onnx import ModelProto

from benchmarks.speed import shapes
from benchmarks.speed.machine import machine
from benchmarks.speed.measure import largest_difference, spent
from benchmarks.speed.networks import SIDE, Places, Subject, images_of, noise, subject_at, subject_of
from benchmarks.speed.tables import table
from onnxpfp.calibrate import collect
from onnxpfp.calibrate.statistics import Statistics

RECOGNIZER = "rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx"
LINE = (48, 320)
CHUNK_BYTES = 4 << 20
TEXT = """Made by `python -m benchmarks.speed.sensitivity_paths`: one thread, processor seconds of a whole call of
`calibrate`, which builds its sessions and runs the network itself. Numpy is `calibrate/sensitivity/`, graphs are
`calibrate/sensitivity/device/` run by onnxruntime on the CPU. Both take turns in one process, {rounds} turns after one
that does not count; the ratio is the median over the turns of graphs / numpy, with the smallest and the largest behind
it. The difference is the largest relative one of a sensitivity. ResNet-50 and MobileNetV2 have random weights and
read noise; the recognizer of PP-OCRv4 (rapidocr-onnxruntime 1.4.4) reads smooth random strokes, dark on light, as
text lines of {height} x {width} normalized to -1..1."""


def main() -> int:
    """Measure and write the results file."""
    options = _parser().parse_args()
    body: list[list[str]] = []
    for title, (count, subject_of_count) in _subjects(options.shared, options.ocr).items():
        body.append([title, str(count), *compared(subject_of_count(count), options.rounds)])
        print(" | ".join(body[-1]), file=sys.stderr, flush=True)
    head = ["network", "samples", "numpy, s", "graphs, s", "ratio", "difference"]
    text = TEXT.format(rounds=options.rounds, height=LINE[0], width=LINE[1])
    parts = ["# Two ways to screen, on the CPU", text, table(head, body), f"{machine()}\n"]
    (options.results / "sensitivity_paths.md").write_text("\n\n".join(parts), encoding="utf-8")
    return 0


def _subjects(shared: Path, wheel: Path) -> dict[str, tuple[int, Callable[[int], Subject]]]:
    """Return how many samples are fed to each network, and what makes it."""
    return {
        "ResNet-50 shape, 224": (8, partial(_built, shapes.resnet50)),
        "ResNet-20, CIFAR-10": (16, partial(_trained, shared)),
        "MobileNetV2 shape, 224": (8, partial(_built, shapes.mobilenet_v2)),
        "PP-OCRv4 recognizer, 48 x 320": (8, partial(_recognizer, wheel)),
    }


def _built(network: Callable[[], ModelProto], count: int) -> Subject:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "network.onnx"
        onnx.save(network(), file)
        return subject_at(file, noise(count, 3, SIDE, SIDE))


def _trained(shared: Path, count: int) -> Subject:
    places = Places(shared, shared)
    return subject_of("resnet20", images_of("resnet20", count, places), places)


def _recognizer(wheel: Path, count: int) -> Subject:
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(wheel) as packed:
        return subject_at(Path(packed.extract(RECOGNIZER, folder)), shapes.text_lines(count, *LINE))


def compared(subject: Subject, rounds: int) -> list[str]:
    """Return the cells of a network: seconds of both, their ratio, and the difference of what they find."""
    by_numpy: list[float] = []
    by_graphs: list[float] = []
    difference = 0.0
    for _ in range(1 + rounds):
        took, reference = spent(partial(_measure, subject))
        by_numpy.append(took.cpu)
        took, scores = spent(partial(_measure_by_graphs, subject))
        by_graphs.append(took.cpu)
        difference = max(difference, largest_difference(scores, reference))
    ratios = sorted(graphs / plain for graphs, plain in zip(by_graphs[1:], by_numpy[1:], strict=True))
    seconds = [f"{statistics.median(each[1:]):.2f}" for each in (by_numpy, by_graphs)]
    ratio = f"{statistics.median(ratios):.2f} ({ratios[0]:.2f}–{ratios[-1]:.2f})"
    return [*seconds, ratio, f"{difference:.1e}"]


def _measure(subject: Subject) -> Statistics:
    return collect.calibrate(subject.model, subject.ops, subject.samples, threads=1)


def _measure_by_graphs(subject: Subject) -> Statistics:
    # Whatever is not the CPU is a device; the chunks of what the network measures itself stay those of the CPU.
    with mock.patch.multiple(collect, CPU="", _CHUNK_BYTES_DEVICE=CHUNK_BYTES):
        return _measure(subject)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0], allow_abbrev=False)
    parser.add_argument("--shared", type=Path, required=True, help="folder with the CIFAR-10 networks and images")
    parser.add_argument("--ocr", type=Path, required=True, help="wheel of rapidocr-onnxruntime 1.4.4")
    parser.add_argument("--results", type=Path, default=Path(__file__).parents[1] / "results")
    parser.add_argument("--rounds", type=int, default=5, help="turns of both")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
