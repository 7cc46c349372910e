"""What the speed benchmark measures, by part."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from benchmarks.speed.commands import Errand
from benchmarks.speed.layers import LAYERS
from benchmarks.speed.machine import cores
from benchmarks.speed.rows import Case, Key

__all__ = [
    "GROWTH",
    "KERNELS",
    "MAIN",
    "PARTS",
    "SIZES",
    "Comparing",
    "Job",
    "Peaking",
    "Timing",
    "jobs",
    "keys",
]

KERNELS: tuple[Literal["sum", "max"], ...] = ("sum", "max")
MAIN = {"resnet50": 64, "resnet20": 256, "mobilenet_v2": 64}
"""Networks whose ratio is measured, with the number of images."""
FEW = {"resnet50": 16, "resnet20": 128, "mobilenet_v2": 16}
"""The plain path takes long."""
GROWN = ("resnet50", "resnet20")
GROWTH = (1, 2, 4)
"""Times the images of `MAIN`."""
SIZES = {"resnet20": 256, "resnet56": 256, "resnet18": 16, "resnet34": 16, "resnet50": 16}
STARTS = 5

ONNXPFP = ("-m", "onnxpfp")
PRUNE = (*ONNXPFP, "prune", "{model}", "{out}", "--calib-data", "{data}", "--keep-macs", "0.7", "--json", "{report}")
WAYS = ("", "--compensate none", "--compensate none --allocate bound")


@dataclass(frozen=True, slots=True)
class Timing:
    """Cases to be timed in turn in one process."""

    cases: tuple[Case, ...]
    kind: ClassVar[str] = "timed"


@dataclass(frozen=True, slots=True)
class Peaking:
    """A case whose memory is measured, in two processes."""

    cases: tuple[Case]
    kind: ClassVar[str] = "memory"


@dataclass(frozen=True, slots=True)
class Comparing:
    """Cases to be timed once, in one process: fewer and all images, both of the plain path and of the screened one.

    The last two have all images and are held against each other.
    """

    cases: tuple[Case, Case, Case, Case]


Job = Timing | Peaking | Comparing | Errand


def keys(job: Job) -> list[Key]:
    """Return the keys of the rows that a job makes."""
    if isinstance(job, Errand):
        return [("command", job.part, job.subject, job.images)]
    if isinstance(job, Comparing):
        return [*(("timed", *case.key) for case in job.cases), ("difference", *job.cases[-1].key)]
    return [(job.kind, *case.key) for case in job.cases]


def _main(part: str) -> Iterator[Case]:
    for subject, images in MAIN.items():
        for threads in dict.fromkeys((1, cores())):
            for kernel in KERNELS:
                yield Case(part=part, subject=subject, kernel=kernel, threads=threads, images=images)


def _ratio() -> Iterator[Job]:
    for case in _main("ratio"):
        yield Timing((case,))


def _memory() -> Iterator[Job]:
    for case in _main("memory"):
        yield Peaking((case,))


def _plain() -> Iterator[Job]:
    for subject, images in FEW.items():
        for kernel in KERNELS:
            case = Case(part="plain", subject=subject, kernel=kernel, images=images)
            plain = replace(case, method="plain")
            yield Comparing((replace(plain, images=images // 2), replace(case, images=images // 2), plain, case))


def _growth() -> Iterator[Job]:
    for subject in GROWN:
        cases = tuple(Case(part="growth", subject=subject, images=times * MAIN[subject]) for times in GROWTH)
        yield Timing(cases)
        for case in cases:
            yield Peaking((case,))


def _size() -> Iterator[Job]:
    for subject, images in SIZES.items():
        yield Timing((Case(part="size", subject=subject, images=images),))


def _layers() -> Iterator[Job]:
    for kernel in KERNELS:
        for title, layer in LAYERS.items():
            batch = layer.batch
            case = Case(part="layers", subject=title, kernel=kernel, images=batch, batch=batch)
            yield Timing((case, replace(case, images=(1 + layer.further) * batch)))


def _prune() -> Iterator[Job]:
    for way in WAYS:
        yield Errand("prune", f"onnxpfp prune {way}".strip(), (*PRUNE, *way.split()), images=MAIN["resnet50"])


def _startup() -> Iterator[Job]:
    yield Errand("startup", "python -c pass", ("-c", "pass"), times=STARTS)
    yield Errand("startup", "onnxpfp --help", (*ONNXPFP, "--help"), times=STARTS)
    yield Errand("startup", "onnxpfp inspect", (*ONNXPFP, "inspect", "{model}"), times=STARTS)


PARTS: dict[str, Callable[[], Iterator[Job]]] = {
    "startup": _startup,
    "ratio": _ratio,
    "memory": _memory,
    "layers": _layers,
    "plain": _plain,
    "size": _size,
    "growth": _growth,
    "prune": _prune,
}


def jobs(parts: list[str], subjects: list[str], scale: float) -> list[Job]:
    """List what is to be done.

    Args:
        parts: Names of `PARTS`.
        subjects: Names of networks; layers and commands are done whatever stands here.
        scale: Times the images; less than 1 is for trying things out.
    """
    found = [job for part in parts for job in PARTS[part]()]
    wanted = [job for job in found if isinstance(job, Errand) or job.cases[0].subject in {*subjects, *LAYERS}]
    return [_scaled(job, scale) for job in wanted]


def _scaled(job: Job, scale: float) -> Job:
    if isinstance(job, Errand):
        return replace(job, images=math.ceil(job.images * scale))
    return replace(job, cases=tuple(replace(case, images=math.ceil(case.images * scale)) for case in job.cases))
