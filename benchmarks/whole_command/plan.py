"""Which rows the benchmark of whole commands has."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from benchmarks.whole_command.rows import Key
from benchmarks.whole_command.subjects import NETWORKS

__all__ = ["FIRST", "PARTS", "PEER_METHOD", "Condition", "Job", "jobs", "keys"]

Condition = tuple[int, int]
"""Threads, 0 where none are asked for, and other processes that keep a core busy each."""
FIRST = "fmnist_resnet"
"""Network of the README's first command."""
ALONE_AND_BESIDE: tuple[Condition, ...] = ((0, 0), (0, 2))
CONDITIONS: tuple[Condition, ...] = ((1, 0), (2, 0), (2, 1))
THREADED = ("ocr", "resnet56", "resnet50")
PEERS = ("resnet50", "mobilenet_v2")
PEER_METHOD = "Taylor, one pass of gradients"


@dataclass(frozen=True, slots=True)
class Job:
    """What is done for one network; the commands of a job take turns.

    Attributes:
        part: Part of the benchmark.
        network: A key of `NETWORKS`.
        conditions: Of the part "threads".
    """

    part: str
    network: str
    conditions: tuple[Condition, ...] = ()


def keys(job: Job, codes: Sequence[str], *, held: bool) -> list[Key]:
    """Return the keys of the rows that a job makes.

    Args:
        job: The job.
        codes: Names of the code that is measured.
        held: Whether BLAS is held to one thread from outside; of the part "whole".
    """
    case = job.network, NETWORKS[job.network].images
    match job.part:
        case "whole":
            return [("whole", *case, code, held) for code in codes]
        case "threads":
            return [("waited", *case, code, *condition) for condition in job.conditions for code in codes]
        case _:
            return [("peer", *case, PEER_METHOD)]


def _threads() -> Iterator[Job]:
    yield Job("threads", FIRST, ALONE_AND_BESIDE)
    for name in THREADED:
        yield Job("threads", name, CONDITIONS)


PARTS: dict[str, Callable[[], Iterator[Job]]] = {
    "whole": lambda: (Job("whole", name) for name in NETWORKS),
    "peers": lambda: (Job("peers", name) for name in PEERS),
    "threads": _threads,
}


def jobs(parts: Sequence[str], networks: Sequence[str]) -> list[Job]:
    """List what is to be done, of some parts and networks."""
    return [job for part in parts for job in PARTS[part]() if job.network in networks]
