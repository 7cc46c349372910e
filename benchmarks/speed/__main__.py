"""Measure how long sensitivities take beside the forward pass, and what they cost in memory; and whole commands.

    python -m benchmarks.speed.exports DIR          # once, with torch and torchvision
    python -m benchmarks.speed --networks DIR --shared ../shared [--part ratio,memory] [--append]

Beside onnxpfp it takes `pip install matplotlib==3.11.2` for the plot, and Linux. `--shared` holds
`models/cifar10_resnet{20,56}_folded.onnx` and `data/cifar10_calib1k.npz`.

Everything is measured in processes of its own, one at a time: leave the machine alone meanwhile. The forward pass and
the sensitivities take turns in the same process, and every turn is kept. Rows are appended to `speed.jsonl` one by one,
so that a run can be stopped and continued with `--append`; without it the chosen parts are measured anew, and the
other rows stay. Tables and plot are made from that file at the end, or at once with `--tables`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

from benchmarks.job_list import make_each
from benchmarks.speed.commands import Errand, carried_out
from benchmarks.speed.machine import limited, machine
from benchmarks.speed.measure import above, compare, peak, timed
from benchmarks.speed.networks import NETWORKS, Places, file_of
from benchmarks.speed.plan import PARTS, Comparing, Job, Peaking, jobs, keys
from benchmarks.speed.plot import plot
from benchmarks.speed.rows import Row, append, compact, read
from benchmarks.speed.tables import page

T = TypeVar("T")


def main() -> int:
    """Measure, then make tables and plot; return 1 where a file lacks or a job failed."""
    options = _parser().parse_args()
    file: Path = options.results / "speed.jsonl"
    wanted = [] if options.tables else jobs(options.part, options.only, options.scale)
    if options.append:
        there = set(read(file))
        wanted = [job for job in wanted if not there.issuperset(keys(job))]
    places = Places(options.shared, options.networks)
    try:
        for name in {name for name in map(_network, wanted) if name in NETWORKS}:
            file_of(name, places)
    except FileNotFoundError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    options.results.mkdir(parents=True, exist_ok=True)
    failed = _run(wanted, places, options.rounds, file)
    compact(file)
    rows = list(read(file).values())
    (options.results / "speed.md").write_text(page(rows), encoding="utf-8")
    plot(rows, options.results / "speed.svg")
    return int(failed > 0)


def _network(job: Job) -> str:
    return job.network if isinstance(job, Errand) else job.cases[0].subject


def _run(wanted: list[Job], places: Places, rounds: int, file: Path) -> int:
    """Make the rows one job after the other; return how many jobs failed."""
    here = machine()

    def make(job: Job) -> None:
        for row in _made(job, places, here, rounds):
            append(file, row)

    return make_each(wanted, make, lambda job: keys(job)[0])


def _made(job: Job, places: Places, here: str, rounds: int) -> Sequence[Row]:
    if isinstance(job, Errand):
        return [carried_out(job, places, here)]
    threads = job.cases[0].threads
    if isinstance(job, Peaking):
        case = job.cases[0]
        forward = _apart(threads, partial(peak, case, "forward", places))
        return [above(case, forward, _apart(threads, partial(peak, case, "calibrate", places)), here)]
    if isinstance(job, Comparing):
        return _apart(threads, partial(compare, job.cases, places, here))
    return _apart(threads, partial(timed, job.cases, rounds, places, here))


def _apart(threads: int, work: Callable[[], T]) -> T:
    """Do something in a fresh process whose libraries have so many threads."""
    # They read the environment when they are imported.
    with limited(threads), ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(work).result()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0], allow_abbrev=False)
    parser.add_argument("--networks", type=Path, required=True, help="folder with what speed.exports wrote")
    parser.add_argument("--shared", type=Path, required=True, help="folder with the CIFAR-10 networks and images")
    parser.add_argument("--results", type=Path, default=Path(__file__).parents[1] / "results")
    parser.add_argument("--part", type=_parts, default=list(PARTS), help=f"of {','.join(PARTS)}, comma-separated")
    parser.add_argument("--only", type=_names, default=list(NETWORKS), help="networks, comma-separated")
    parser.add_argument("--append", action="store_true", help="keep the rows that there are and make those that lack")
    parser.add_argument("--tables", action="store_true", help="measure nothing, only make tables and plot")
    parser.add_argument("--rounds", type=int, default=5, help="turns of forward pass and sensitivities")
    parser.add_argument("--scale", type=float, default=1.0, help="times the images; below 1 to try things out")
    return parser


def _names(text: str) -> list[str]:
    return text.split(",")


def _parts(text: str) -> list[str]:
    names = _names(text)
    if unknown := set(names) - set(PARTS):
        raise argparse.ArgumentTypeError(f"{', '.join(sorted(unknown))}: the parts are {', '.join(PARTS)}")
    return names


if __name__ == "__main__":
    raise SystemExit(main())
