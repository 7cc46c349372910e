"""Make networks smaller by each structure to one share of the multiply-adds or latency, and see what that loses.

    python -m benchmarks.structures --shared ../shared --cache DIR [--only ocr,convnext] [--targets 0.7,0.5] [--append]
    python -m benchmarks.structures --shared ../shared --cache DIR --quantity latency

Beside onnxpfp it takes Pillow and the fonts of Debian's packages fonts-dejavu-core and fonts-liberation; the wheel of
rapidocr-onnxruntime, which is downloaded, and the networks that are made go into `--cache`. Rows are appended to
`structures.jsonl` one by one, so that a run can be stopped and continued with `--append`; `--tables` only makes the
page.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.job_list import make_each, names_among
from benchmarks.latency.turns import beside, feed_of
from benchmarks.structures.page import page
from benchmarks.structures.rows import Row, append, compact, read
from benchmarks.structures.subjects import FAST, SUBJECTS, Places, Subject
from onnxpfp import factorize, prune, save_result
from onnxpfp.errors import TargetUnreachableError

CHOSEN = ("channels", "channels,rank", "channels,blocks", "channels,rank,blocks")
STRUCTURES: Mapping[str, Sequence[str]] = {"macs": (*CHOSEN, "factorize"), "latency": CHOSEN}
NETWORKS: Mapping[str, Mapping[str, Subject]] = {"macs": SUBJECTS, "latency": FAST}
SAMPLES: Mapping[str, int] = {"macs": 256, "latency": 1024}
"""Most calibration samples."""


@dataclass(frozen=True, slots=True)
class Job:
    """One row to make."""

    network: str
    structure: str
    target: float
    quantity: str

    @property
    def key(self) -> tuple[str, str, str, str, float]:
        """The key of its row in the file."""
        return "row", self.network, self.structure, self.quantity, self.target


def make(job: Job, places: Places) -> Row:
    """Make a network smaller, and measure what is left."""
    subject = NETWORKS[job.quantity][job.network]
    source, samples = subject.file(places), subject.calibration(places)[: SAMPLES[job.quantity]]
    common: dict[str, Any] = {"calibration": samples, f"keep_{job.quantity}": job.target, "threads": 1}
    named = {"network": job.network, "structure": job.structure, "target": job.target, "quantity": job.quantity}
    start = time.process_time()
    try:
        if job.structure == "factorize":
            result: Any = factorize(source, **common)
        else:
            result = prune(source, structure=job.structure, **common)
    except TargetUnreachableError as error:
        return Row(**named, refused=str(error))
    seconds = time.process_time() - start
    report = result.report
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "smaller.onnx"
        save_result(result, file)
        before, after = (subject.right(each, places) for each in (source, file))
        seen = beside(source, file, feed_of(source, samples[:1]), threads=1) if job.quantity == "latency" else None
    pruned = job.structure != "factorize"
    ratio = None if report.latency is None or report.latency.ratio is None else report.latency.ratio.median
    if seen is not None:
        ratio = seen.ratios[1]
    return Row(
        **named,
        macs=round(report.after.macs / report.before.macs, 4),
        params=round(report.after.params / report.before.params, 4),
        oracle=float(f"{report.oracle.error:.2g}"),
        drift=None if report.drift is None else round(report.drift.relative_error or 0.0, 4),
        before=before,
        after=after,
        latency=None if ratio is None else round(ratio, 3),
        quartiles=None if seen is None else (round(seen.ratios[0], 3), round(seen.ratios[2], 3)),
        ranked=len(report.ranked if pruned else report.layers),
        gone=sum(group.kept == 0 for group in report.groups) if pruned else 0,
        seconds=round(seconds, 1),
    )


def main() -> int:
    """Make rows, then the page; return 1 where one failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0], allow_abbrev=False)
    parser.add_argument("--shared", type=Path, required=True, help="folder with the CIFAR-10 networks and images")
    parser.add_argument("--cache", type=Path, required=True, help="folder for the wheel and for networks made here")
    parser.add_argument("--fonts", type=Path, default=Path("/usr/share/fonts/truetype"), help="folder of fonts")
    parser.add_argument("--results", type=Path, default=Path(__file__).parents[1] / "results")
    parser.add_argument("--quantity", choices=tuple(NETWORKS), default="macs", help="what a share is kept of")
    parser.add_argument("--only", default="", help="networks, comma-separated; all of them if empty")
    parser.add_argument("--structures", default="", help="structures, with blanks between them; all of them if empty")
    parser.add_argument("--targets", default="0.7,0.5", help="shares, comma-separated")
    parser.add_argument("--append", action="store_true", help="keep the rows that there are and make those that lack")
    parser.add_argument("--tables", action="store_true", help="measure nothing, only make the page")
    options = parser.parse_args()
    file: Path = options.results / "structures.jsonl"
    networks = tuple(NETWORKS[options.quantity])
    jobs = [
        Job(network, structure, float(target), options.quantity)
        for network in names_among(options.only or ",".join(networks), networks, "networks")
        for target in options.targets.split(",")
        for structure in options.structures.split() or STRUCTURES[options.quantity]
    ]
    there = read(file) if options.append else {}
    wanted = [] if options.tables else [job for job in jobs if job.key not in there]
    places = Places(options.shared, options.cache, options.fonts, Path(sys.executable))
    failed = make_each(wanted, lambda job: append(file, [make(job, places)]))
    compact(file)
    (options.results / "structures.md").write_text(page(list(read(file).values())), encoding="utf-8")
    return int(failed > 0)


if __name__ == "__main__":
    raise SystemExit(main())
