"""Seconds, memory and exactness of `calibrate`, each measured in a process of its own."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from benchmarks.speed.layers import LAYERS, layer_input, lone, subject_of_layer
from benchmarks.speed.machine import memory
from benchmarks.speed.networks import Places, Subject, images_of, subject_of
from benchmarks.speed.rows import Case, Difference, Memory, Timed
from onnxpfp.calibrate.collect import calibrate
from onnxpfp.calibrate.statistics import Statistics
from onnxpfp.runtime.session import Session, open_session

__all__ = ["Spent", "above", "compare", "largest_difference", "peak", "spent", "timed"]

RESET_PEAK = "5"
"""What /proc/PID/clear_refs takes to forget the peak of the resident memory (proc_pid_clear_refs(5))."""

Feed = dict[str, NDArray[Any]]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Spent:
    """Seconds of the processor, and by the clock."""

    cpu: float
    wall: float


@dataclass(frozen=True, slots=True, eq=False)
class _Trial:
    """A case that is ready to be measured."""

    case: Case
    subject: Subject
    plain: Session
    feeds: Sequence[Feed]

    def forward(self) -> None:
        """Run all images through the network."""
        for feed in self.feeds:
            self.plain.run(feed)

    def measure(self) -> Statistics:
        """Do what a user waits for."""
        return _calibrate(self.subject, self.case)


def spent(work: Callable[[], T]) -> tuple[Spent, T]:
    """Do a piece of work once; return what it took, and its result."""
    cpu, wall = time.process_time(), time.perf_counter()
    result = work()
    return Spent(time.process_time() - cpu, time.perf_counter() - wall), result


def timed(cases: Sequence[Case], rounds: int, places: Places, machine: str) -> list[Timed]:
    """Measure cases of one subject in turn: in every round the forward pass and the sensitivities of each.

    Args:
        cases: They have the subject and the threads in common.
        rounds: How often.
        places: Where the files are.
        machine: What the rows shall say.
    """
    trials = _trials(cases, places)
    forward: dict[Case, list[Spent]] = {case: [] for case in cases}
    ours: dict[Case, list[Spent]] = {case: [] for case in cases}
    for _ in range(rounds):
        for trial in trials:
            forward[trial.case].append(spent(trial.forward)[0])
            ours[trial.case].append(spent(trial.measure)[0])
    return [_row(case, forward[case], ours[case], machine) for case in cases]


def peak(case: Case, what: Literal["forward", "calibrate"], places: Places) -> int:
    """Return the largest resident memory of this process, in bytes, while it does one of the two.

    The network and its images are there before; what it took to prepare them is not counted.
    """
    subject = _subject(case.subject, case.images, places)
    Path("/proc/self/clear_refs").write_text(RESET_PEAK, encoding="utf-8")
    if what == "forward":
        _trial(case, subject, open_session(subject.model, threads=case.threads)).forward()
    else:
        _calibrate(subject, case)
    return memory()["VmHWM"]


def above(case: Case, forward_bytes: int, calibrate_bytes: int, machine: str) -> Memory:
    """Put the peaks of two processes into a row."""
    return Memory(**asdict(case), machine=machine, forward_bytes=forward_bytes, bytes=calibrate_bytes)


def compare(cases: Sequence[Case], places: Places, machine: str) -> list[Timed | Difference]:
    """Time each case once, and hold the sensitivities of the last two, of both methods, against each other."""
    rows: list[Timed | Difference] = []
    found: list[Statistics] = []
    for trial in _trials(cases, places):
        forward, _ = spent(trial.forward)
        ours, statistics = spent(trial.measure)
        rows.append(_row(trial.case, [forward], [ours], machine))
        found = [*found[-1:], statistics]
    reference, ours = found
    channels = sum(len(reference[name].channels) for name in reference)
    largest = largest_difference(ours, reference)
    return [*rows, Difference(**asdict(cases[-1]), machine=machine, largest=largest, channels=channels)]


def largest_difference(ours: Statistics, reference: Statistics) -> float:
    """Return the largest relative difference of a sensitivity."""
    smallest = np.finfo(np.float64).tiny
    return max(
        float((np.abs(ours[name].sensitivity - expected) / np.maximum(expected, smallest)).max(initial=0))
        for name, expected in ((name, reference[name].sensitivity) for name in reference)
    )


def _row(case: Case, forward: Sequence[Spent], ours: Sequence[Spent], machine: str) -> Timed:
    return Timed(
        **asdict(case),
        machine=machine,
        forward_cpu=tuple(each.cpu for each in forward),
        forward_wall=tuple(each.wall for each in forward),
        cpu=tuple(each.cpu for each in ours),
        wall=tuple(each.wall for each in ours),
    )


def _trials(cases: Sequence[Case], places: Places) -> list[_Trial]:
    """Make cases of one subject ready."""
    subject = _subject(cases[0].subject, max(case.images for case in cases), places)
    plain = open_session(_alone(cases[0].subject, subject), threads=cases[0].threads)
    trials = [_trial(case, subject, plain) for case in cases]
    for trial in trials:
        # The first run of a session has to touch all its memory.
        plain.run(trial.feeds[0])
    return trials


def _calibrate(subject: Subject, case: Case) -> Statistics:
    return calibrate(
        subject.model,
        subject.ops,
        subject.samples.take(case.images),
        kernel=case.kernel,
        method=case.method,
        batch_size=case.batch,
        threads=case.threads,
    )


def _subject(name: str, images: int, places: Places) -> Subject:
    if name in LAYERS:
        return subject_of_layer(LAYERS[name], images)
    return subject_of(name, images_of(name, images, places), places)


def _alone(name: str, subject: Subject) -> ModelProto:
    """Return what a plain forward pass runs: of a layer the layer alone, without the ReLU before it."""
    return lone(LAYERS[name]) if name in LAYERS else subject.model


def _trial(case: Case, subject: Subject, plain: Session) -> _Trial:
    if case.subject in LAYERS:
        read = layer_input(LAYERS[case.subject], case.images)
        feeds = [{"a": read[start : start + case.batch]} for start in range(0, case.images, case.batch)]
    else:
        feeds = list(subject.samples.take(case.images).batches(case.batch))
    return _Trial(case, subject, plain, feeds)
