"""Which rows the latency benchmark has."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product

from benchmarks.latency.equal_accuracy import OURS, SHARES
from benchmarks.latency.rows import Key
from benchmarks.latency.subjects import SUBJECTS
from benchmarks.latency.subnormals import DECAYED
from benchmarks.latency.targets import TABLE_THREADS, USED_THREADS

__all__ = ["BATCHES", "PARTS", "TARGETS", "THREADS", "Job", "jobs", "keys"]

BATCHES, THREADS = (1, 16), (1, 2)
"""Samples in one run, and threads."""
TARGETS = EVERYWHERE, MORE = 0.7, 0.5
"""Share of the latency in all cases, and another one in the first case."""
ROUNDINGS = (0, 8)
"""Multiples of the widths that are tuned by hand; 0 is the default."""
EQUAL = ("ocr", "resnet56", "fmnist_resnet", "fmnist_densenet", "fmnist_mobilenet")
TABLES = ("ocr", "resnet56", "mobilenet_v2")
SUBNORMAL = (DECAYED, "ocr")
JUDGED = tuple(name for name, subject in SUBJECTS.items() if subject.accuracy is not None)
"""Networks whose accuracy can be told."""


@dataclass(frozen=True, slots=True)
class Job:
    """What is done in one process."""

    part: str
    network: str
    batch: int = 1
    threads: int = 1
    target: float = EVERYWHERE
    rounding: int = 0


def keys(job: Job) -> list[Key]:
    """Return the keys of rows without which a job has to be done; of the peers there may be more rows."""
    case = job.network, job.batch, job.threads
    match job.part:
        case "targets":
            return [("targeted", *case, job.target, 0)]
        case "hand":
            return [("byhand", *case, job.target, job.rounding)]
        case "equal":
            return [("point", *case, OURS, share) for share in SHARES]
        case "table":
            used = ((job.network, job.batch, threads) for threads in USED_THREADS)
            return [("targeted", *each, job.target, TABLE_THREADS) for each in used]
        case _:
            return [("subnormals", *case)]


def _targets() -> Iterator[Job]:
    for name in SUBJECTS:
        yield Job("targets", name)
        if name in JUDGED:
            yield Job("targets", name, target=MORE)
        for batch, threads in list(product(BATCHES, THREADS))[1:]:
            yield Job("targets", name, batch, threads)


def _hand() -> Iterator[Job]:
    for name in JUDGED:
        for target in (EVERYWHERE, MORE):
            for rounding in ROUNDINGS:
                yield Job("hand", name, target=target, rounding=rounding)


PARTS: dict[str, Callable[[], Iterator[Job]]] = {
    "subnormals": lambda: (Job("subnormals", name) for name in SUBNORMAL),
    "targets": _targets,
    "hand": _hand,
    "table": lambda: (Job("table", name) for name in TABLES),
    "equal": lambda: (Job("equal", name) for name in EQUAL),
}


def jobs(
    parts: list[str], networks: list[str], targets: list[float], batches: list[int], threads: list[int]
) -> list[Job]:
    """List what is to be done, of some parts, networks, targets and conditions."""
    return [
        job
        for part in parts
        for job in PARTS[part]()
        if job.network in networks and job.target in targets and job.batch in batches and job.threads in threads
    ]
