"""Set weights of trained networks to zero by SiPP and by magnitude, and count what is still named rightly.

    python -m benchmarks.sparsity --shared ../shared [--networks resnet20] [--keep 0.5,0.3,0.1] [--append]

No network is trained or refitted after it. Rows are appended to `sparsity.jsonl` one by one, so that a run can be
stopped and continued with `--append`; `--tables` only makes the page, with the bounds of `benchmarks.sparsity.bounds`.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
from onnx import ModelProto

import onnxpfp
from benchmarks.accuracy.measure import classes, top1
from benchmarks.accuracy.networks import NETWORKS, Folders
from benchmarks.job_list import make_each, names_among
from benchmarks.sparsity.magnitude import by_magnitude, nonzero
from benchmarks.sparsity.page import page
from benchmarks.sparsity.rows import Accuracy, append, compact, read

WAYS: dict[str, dict[str, Any]] = {
    "deterministic, max": {"select": "deterministic"},
    "deterministic, mean": {"select": "deterministic", "positions": "mean"},
    "sampled": {"select": "sampled"},
    "hybrid": {"select": "hybrid"},
    "magnitude, network": {"by_layer": False},
    "magnitude, layer": {"by_layer": True},
}
SAMPLES = 512
"""Calibration images, of which onnxpfp holds an eighth out."""


@dataclass(frozen=True, slots=True)
class Job:
    """One row to make."""

    network: str
    way: str
    keep: float
    seed: int

    @property
    def key(self) -> tuple[str, str, str, float, int]:
        """The key of its row in the file."""
        return "accuracy", self.network, self.way, self.keep, self.seed


def make(job: Job, folders: Folders) -> Accuracy:
    """Make one row."""
    network = NETWORKS[job.network]
    source, test = network.file(folders, network.usual), network.test(folders)
    original, seconds = onnx.load(source), None
    if job.way.startswith("magnitude"):
        model = by_magnitude(original, job.keep, **WAYS[job.way])
    else:
        images = network.calibration(folders).drawn(job.seed, SAMPLES).x
        start = time.process_time()
        options = {**WAYS[job.way], "keep_weights": job.keep, "seed": job.seed}
        model = onnxpfp.sparsify(source, calibration=images, threads=1, **options).model
        seconds = round(time.process_time() - start, 1)
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "sparse.onnx"
        onnx.save(model, file)
        before, after = (top1(classes(each, test.x), test.known) for each in (source, file))
    return Accuracy(
        network=job.network,
        way=job.way,
        keep=job.keep,
        seed=job.seed,
        kept=round(nonzero(model) / nonzero(original), 4),
        before=before,
        after=after,
        compressed=round(_compressed(model) / _compressed(original), 4),
        seconds=seconds,
    )


def _compressed(model: ModelProto) -> int:
    return len(zlib.compress(model.SerializeToString()))


def main() -> int:
    """Make rows, then the page; return 1 where one failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0], allow_abbrev=False)
    parser.add_argument("--shared", type=Path, required=True, help="folder with the CIFAR-10 networks and images")
    parser.add_argument("--results", type=Path, default=Path(__file__).parents[1] / "results")
    parser.add_argument("--networks", default="resnet20", help="networks, comma-separated")
    parser.add_argument("--ways", default=";".join(WAYS), help="how to choose, with semicolons between them")
    parser.add_argument("--keep", default="0.5,0.3,0.1", help="shares of the weights, comma-separated")
    parser.add_argument("--seeds", default="0", help="seeds, comma-separated")
    parser.add_argument("--append", action="store_true", help="keep the rows that there are and make those that lack")
    parser.add_argument("--tables", action="store_true", help="measure nothing, only make the page")
    options = parser.parse_args()
    file: Path = options.results / "sparsity.jsonl"
    jobs = [
        Job(network, way, float(keep), int(seed))
        for network in names_among(options.networks, tuple(NETWORKS), "networks")
        for keep in options.keep.split(",")
        for seed in options.seeds.split(",")
        for way in options.ways.split(";")
    ]
    there = read(file) if options.append else {}
    wanted = [] if options.tables else [job for job in jobs if job.key not in there]
    folders = Folders(options.shared, options.shared)
    failed = make_each(wanted, lambda job: append(file, [make(job, folders)]))
    compact(file)
    (options.results / "sparsity.md").write_text(page([*read(file).values()]), encoding="utf-8")
    return int(failed > 0)


if __name__ == "__main__":
    raise SystemExit(main())
