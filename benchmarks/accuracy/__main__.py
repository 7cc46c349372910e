"""Prune trained networks without training and measure their accuracy: every method of onnxpfp, and other pruners.

    python -m benchmarks.accuracy --shared ../shared --append [--jobs 2] [--only resnet20,resnet56] [--rows 'pfp*']

Beside onnxpfp it takes what `peers` says, and `pip install matplotlib==3.11.2` for the plot. `--shared` holds
`models/cifar10_*.onnx` and `data/cifar10_{calib1k,test5k}.npz`.

Every row is one file, pruned by the command line of onnxpfp or by a peer, with the same calibration images: all 1,024
of CIFAR-10 or 256 of Fashion-MNIST, training images in an order drawn by the seed, which is `--seed` of onnxpfp too.
`--round-to 1` is given where a row does not say otherwise, for the widths that the target allows; the default, which is
faster on a CPU, keeps multiples of 8 or 16. Rows are appended to `accuracy.jsonl` one by one, so that a run can be
stopped and continued with `--append`; without it the chosen rows are made anew, and the others stay. Tables and plot
are made from that file at the end, or at once with `--jobs 0`.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path

from benchmarks.accuracy.jobs import Where, key, make
from benchmarks.accuracy.networks import NETWORKS, Folders
from benchmarks.accuracy.plan import TARGETS, Job, jobs
from benchmarks.accuracy.plot import plot
from benchmarks.accuracy.rows import Key, append, compact, read
from benchmarks.accuracy.tables import page

THREAD_VARIABLES = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")


def main() -> int:
    """Make rows, then tables and plot; return 1 where a row failed."""
    options = _parser().parse_args()
    where = Where(Folders(options.shared, options.fmnist), options.threads)
    file: Path = options.results / "accuracy.jsonl"
    failed = 0
    if options.jobs:
        wanted = jobs(options.only, options.rows, options.seeds, options.targets)
        failed = _run(_open(wanted, where, set(read(file)) if options.append else set()), where, options.jobs, file)
    compact(file)
    rows = list(read(file).values())
    (options.results / "accuracy.md").write_text(page(rows), encoding="utf-8")
    plot(rows, options.results / "accuracy.svg")
    return int(failed > 0)


def _open(wanted: list[Job], where: Where, there: set[Key]) -> list[Job]:
    """Leave out what is there and what cannot run here."""
    left: list[Job] = []
    obstacles: dict[str, None] = {}
    for job in wanted:
        if key(job, where.folders) in there:
            continue
        labelled = NETWORKS[job.network].calibration(where.folders).labels is not None
        obstacle = job.way.peer.obstacle(labelled=labelled) if job.way.peer else None
        if obstacle:
            obstacles[f"{job.network}: {obstacle}"] = None
        else:
            left.append(job)
    for line in obstacles:
        print(line, file=sys.stderr)
    return left


def _run(left: list[Job], where: Where, processes: int, file: Path) -> int:
    """Make the rows; return how many failed."""
    # Read by the libraries as they are imported, in the processes that are started below.
    os.environ |= dict.fromkeys(THREAD_VARIABLES, str(where.threads))
    # A run that is told to end lets the rows in work end, too.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    failed = 0
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        running = {pool.submit(make, job, where): job for job in left}
        try:
            for count, done in enumerate(as_completed(running), 1):
                if error := done.exception():
                    failed += 1
                    print(f"FAILED {running[done]}\n{error}", file=sys.stderr, flush=True)
                    continue
                row = done.result()
                append(file, row)
                print(f"{count}/{len(left)} {row}", file=sys.stderr, flush=True)
        finally:
            pool.shutdown(cancel_futures=True)
    return failed


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--shared", type=Path, required=True, help="folder with the CIFAR-10 networks and images")
    parser.add_argument(
        "--fmnist",
        type=Path,
        default=Path("/usr/share/datasets/fashion-mnist"),
        help="original files of Fashion-MNIST; without them the peers that need labels are left out there",
    )
    parser.add_argument("--results", type=Path, default=Path(__file__).parents[1] / "results")
    parser.add_argument("--only", type=_names, default=list(NETWORKS), help="networks, comma-separated")
    parser.add_argument("--rows", type=_names, default=["*"], help="globs of methods, comma-separated")
    parser.add_argument("--seeds", type=_integers, default=[0, 1, 2])
    parser.add_argument("--targets", type=_shares, default=list(TARGETS))
    parser.add_argument("--append", action="store_true", help="keep the rows that there are and make those that lack")
    parser.add_argument("--jobs", type=int, default=1, help="rows at a time; 0 only makes tables and plot")
    parser.add_argument("--threads", type=int, default=1, help="threads of one row")
    return parser


def _names(text: str) -> list[str]:
    return text.split(",")


def _integers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def _shares(text: str) -> list[float]:
    return [float(part) for part in text.split(",")]


if __name__ == "__main__":
    raise SystemExit(main())
