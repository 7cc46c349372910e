"""Prune then quantize, and the other way round: accuracy, bytes and time after each step.

    python -m benchmarks.quantization --shared ../shared [--only resnet20,...] [--seeds 3] [--append]

onnxruntime's `quantize_static` with its defaults (QDQ, 8 bits, signed) but a scale for every channel of a weight. It is
calibrated by the images that also prune. Pruned is by the defaults of onnxpfp but `--effort low`. The last step prunes
the quantized file.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from onnxruntime.quantization import CalibrationDataReader, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

import onnxpfp
from benchmarks.accuracy.networks import NETWORKS, Folders, Images, Network

__all__ = ["Row", "main", "quantize"]

NOWHERE = Path("nowhere")
"""In the place of files that hold the labels of calibration images: they are not needed."""
SHOWN = ("resnet20", "fmnist_resnet", "fmnist_densenet", "fmnist_mobilenet")
SHARES = (0.7, 0.5)
BATCH = 64
ROUNDS, RUNS = 15, 20
"""Times of a file are medians over rounds, in which all files run in turns, of so many runs each."""
STEPS = {
    "original": "as it is",
    "quantized": "quantized",
    "pruned": "pruned",
    "pruned, quantized": "pruned, then quantized",
    "quantized, pruned": "quantized, then pruned",
}


@dataclass(frozen=True, slots=True)
class Row:
    """One file.

    Attributes:
        network: The network.
        step: What was done to it, a name of `STEPS`.
        share: Share of the multiply-adds that was asked for; 1 where nothing was pruned.
        seed: Of the pruning.
        macs: Share of the multiply-adds in the pruned file.
        top1: Top-1 on the test images, in percent.
        bytes: Of the file.
        time: Processor time of a run of one image on one thread, as a share of the original's.
    """

    network: str
    step: str
    share: float
    seed: int
    macs: float
    top1: float
    bytes: int
    time: float


class _Images(CalibrationDataReader):
    """Calibration images in batches, as onnxruntime's quantizer reads them."""

    def __init__(self, name: str, images: np.ndarray) -> None:
        self._feeds = iter([{name: images[i : i + BATCH]} for i in range(0, len(images), BATCH)])

    def get_next(self) -> Any:
        return next(self._feeds, None)


def quantize(source: Path, target: Path, images: np.ndarray) -> None:
    """Quantize a file of one input, folded as onnxruntime recommends."""
    with tempfile.TemporaryDirectory() as folder:
        folded = str(Path(folder, "folded.onnx"))
        quant_pre_process(str(source), folded, skip_symbolic_shape=True)
        name = ort.InferenceSession(folded, providers=["CPUExecutionProvider"]).get_inputs()[0].name
        quantize_static(folded, str(target), _Images(name, images), per_channel=True)


def main() -> None:
    """Measure what is asked for, and write the page of all rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, required=True)
    parser.add_argument("--only", default=",".join(SHOWN))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--append", action="store_true")
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args()
    file: Path = options.results / "quantization.jsonl"
    rows = _read(file) if options.append else {}
    for name in filter(None, options.only.split(",")):
        for row in measured(NETWORKS[name], Folders(options.shared, NOWHERE), options.seeds):
            rows[row.network, row.step, row.share, row.seed] = row
            print(row, file=sys.stderr, flush=True)
        file.write_text("".join(json.dumps(asdict(each)) + "\n" for each in rows.values()), encoding="utf-8")
    (options.results / "quantization.md").write_text(page([*rows.values()]), encoding="utf-8")


def measured(network: Network, folders: Folders, seeds: int) -> Iterator[Row]:
    """Yield the rows of a network."""
    images, test = network.calibration(folders).x, network.test(folders)
    original = network.file(folders, network.usual)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        quantized = folder / "quantized.onnx"
        quantize(original, quantized, images)
        files = {("original", 1.0, 0): (original, 1.0), ("quantized", 1.0, 0): (quantized, 1.0)}
        for share in SHARES:
            for seed in range(seeds):
                pruned, both, late = (folder / f"{kind}-{share}-{seed}.onnx" for kind in ("p", "pq", "qp"))
                macs = _prune(original, pruned, images, share, seed)
                quantize(pruned, both, images)
                files["pruned", share, seed] = pruned, macs
                files["pruned, quantized", share, seed] = both, macs
                files["quantized, pruned", share, seed] = late, _prune(quantized, late, images, share, seed)
        times = _times({key: path for key, (path, _) in files.items()}, test.x[:1])
        for (step, share, seed), (path, macs) in files.items():
            ratio = times[step, share, seed] / times["original", 1.0, 0]
            yield Row(
                network.name, step, share, seed, macs, 100 * _top1(path, test), path.stat().st_size, round(ratio, 3)
            )


def _prune(source: Path, target: Path, images: np.ndarray, share: float, seed: int) -> float:
    """Write a pruned file, and return the share of the multiply-adds that is left."""
    options = {"keep_macs": share, "seed": seed, "threads": 1, "effort": "low", "no_latency": True}
    result = onnxpfp.prune(str(source), calibration=images, **options)
    onnxpfp.save_result(result, str(target))
    return result.report.after.macs / result.report.before.macs


def _session(path: Path) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _top1(path: Path, test: Images) -> float:
    session = _session(path)
    name = session.get_inputs()[0].name
    batches = [test.x[i : i + BATCH] for i in range(0, len(test.x), BATCH)]
    return float(np.mean(np.concatenate([session.run(None, {name: x})[0].argmax(1) for x in batches]) == test.known))


def _times(files: Mapping[tuple[str, float, int], Path], image: np.ndarray) -> dict[tuple[str, float, int], float]:
    """Return the median processor time of every file, run in turns."""
    sessions = {key: _session(path) for key, path in files.items()}
    times: dict[tuple[str, float, int], list[float]] = {key: [] for key in files}
    for _ in range(ROUNDS):
        for key, session in sessions.items():
            feeds = {session.get_inputs()[0].name: image}
            session.run(None, feeds)
            start = time.process_time()
            for _ in range(RUNS):
                session.run(None, feeds)
            times[key].append(time.process_time() - start)
    return {key: statistics.median(each) for key, each in times.items()}


def _read(file: Path) -> dict[tuple[str, str, float, int], Row]:
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    return {(row.network, row.step, row.share, row.seed): row for row in (Row(**json.loads(line)) for line in lines)}


def page(rows: Sequence[Row]) -> str:
    """Show accuracy, size and time after every step."""
    lines = [
        _HEAD,
        "",
        "| network | MACs asked for | file | top-1, % | bytes | time |",
        "| --- | ---: | --- | ---: | ---: | ---: |",
    ]
    for name in dict.fromkeys(row.network for row in rows):
        network = NETWORKS[name].title
        for share in sorted({row.share for row in rows if row.network == name}, reverse=True):
            for step in STEPS:
                same = [row for row in rows if (row.network, row.step, row.share) == (name, step, share)]
                if same:
                    lines.append(f"| {network} | {share:g} | {STEPS[step]} | {_cells(same)} |")
                    network = ""
    return "\n".join(lines) + "\n"


def _cells(same: Sequence[Row]) -> str:
    top1 = [row.top1 for row in same]
    spread = f" ± {statistics.stdev(top1):.1f}" if len(top1) > 1 else ""
    size = statistics.mean(row.bytes for row in same)
    ratio = statistics.median(row.time for row in same)
    return f"{statistics.mean(top1):.1f}{spread} | {size:,.0f} | {ratio:.2f}"


_HEAD = """# Pruning and quantization

Made by `python -m benchmarks.quantization` from [quantization.jsonl](quantization.jsonl). Top-1 on 5,000 test images of
CIFAR-10 or 1,000 of Fashion-MNIST; 1,024 or 256 training images both prune and calibrate the quantization. Pruned by
`onnxpfp prune` with its defaults but `--effort low`, quantized by onnxruntime's `quantize_static` (QDQ, 8 bits, a scale
for every channel of a weight). Nothing is trained. ± is the standard deviation over seeds of the pruning; time is
processor time of one image on one thread, as a share of the original's, the median of files that ran in turns.

A quantized file can be pruned too: its weights are refitted, and rounded again with new scales. What the activations
are rounded by stays as it was chosen for the network before.

## In short"""

if __name__ == "__main__":
    main()
