"""Prune networks to a measured share of their latency: what was promised, what is measured, and what it costs.

    python -m benchmarks.latency --shared ../shared --cache DIR [--part targets,equal] [--only ocr,resnet56] [--append]

Beside onnxpfp it takes Pillow, and the fonts of Debian's packages fonts-dejavu-core and fonts-liberation. `--shared`
holds `models/cifar10_*.onnx` and `data/cifar10_{calib1k,test5k}.npz`; the wheel of rapidocr-onnxruntime, which is
downloaded, and the networks that are made go into `--cache`. The peers of the part "equal" may be installed in another
environment (`benchmarks/accuracy/peers`), whose Python is `--peers`.

Parts: targets (keep a share of the latency), hand (a share of the multiply-adds that was tuned to the same latency;
needs the row of targets), table (a table that was measured before), equal (the latency of peers at the same accuracy),
subnormals (a network without its subnormal weights). Every row is made in a process of its own, one at a time: leave
the machine alone meanwhile. Rows are appended to `latency.jsonl` one by one, so that a run can be stopped and continued
with `--append`; without it the chosen rows are made anew, and the others stay. The page is made from that file at the
end, or at once with `--tables`.
"""

from __future__ import annotations

import argparse
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from benchmarks.job_list import make_each, names_among
from benchmarks.latency.jobs import make
from benchmarks.latency.page import page
from benchmarks.latency.plan import BATCHES, PARTS, TARGETS, THREADS, Job, jobs, keys
from benchmarks.latency.rows import append, compact, read
from benchmarks.latency.subjects import SUBJECTS, Places
from benchmarks.latency.subnormals import DECAYED
from benchmarks.speed.machine import limited

NETWORKS = (DECAYED, *SUBJECTS)


def main() -> int:
    """Make rows, then the page; return 1 where a job failed."""
    options = _parser().parse_args()
    file: Path = options.results / "latency.jsonl"
    wanted = jobs(options.part, options.only, options.targets, options.batches, options.threads)
    if options.tables:
        wanted = []
    if options.append:
        there = set(read(file))
        wanted = [job for job in wanted if not there.issuperset(keys(job))]
    options.results.mkdir(parents=True, exist_ok=True)
    places = Places(options.shared, options.cache, options.fonts, options.peers)
    failed = make_each(wanted, lambda job: _make(job, places, file))
    compact(file)
    (options.results / "latency.md").write_text(page(list(read(file).values())), encoding="utf-8")
    return int(failed > 0)


def _make(job: Job, places: Places, file: Path) -> None:
    """Make the rows of a job in a process of its own."""
    # Libraries read the number of threads when they are imported.
    with limited(job.threads), ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        append(file, pool.submit(make, job, places, read(file)).result())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0], allow_abbrev=False)
    parser.add_argument("--shared", type=Path, required=True, help="folder with the CIFAR-10 networks and images")
    parser.add_argument("--cache", type=Path, required=True, help="folder for the wheel and for networks made here")
    parser.add_argument("--fonts", type=Path, default=Path("/usr/share/fonts/truetype"), help="folder of fonts")
    parser.add_argument("--peers", type=Path, default=Path(sys.executable), help="Python that has the peers")
    parser.add_argument("--results", type=Path, default=Path(__file__).parents[1] / "results")
    parser.add_argument("--part", type=_parts, default=list(PARTS), help=f"of {','.join(PARTS)}, comma-separated")
    parser.add_argument("--only", type=_networks, default=list(NETWORKS), help="networks, comma-separated")
    parser.add_argument("--targets", type=_shares, default=list(TARGETS), help="shares of the latency, comma-separated")
    parser.add_argument("--batches", type=_counts, default=list(BATCHES), help="samples in a run, comma-separated")
    parser.add_argument("--threads", type=_counts, default=list(THREADS), help="threads, comma-separated")
    parser.add_argument("--append", action="store_true", help="keep the rows that there are and make those that lack")
    parser.add_argument("--tables", action="store_true", help="measure nothing, only make the page")
    return parser


def _parts(text: str) -> list[str]:
    return names_among(text, tuple(PARTS), "parts")


def _networks(text: str) -> list[str]:
    return names_among(text, NETWORKS, "networks")


def _shares(text: str) -> list[float]:
    return [float(part) for part in text.split(",")]


def _counts(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


if __name__ == "__main__":
    raise SystemExit(main())
