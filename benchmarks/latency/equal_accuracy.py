"""Rows of what several tools make of one network, all measured in one run, and the latency of each at equal accuracy.

A tool has a point for every setting. What it can have at an accuracy lies on its front: on the lines between the points
that no other one beats in both, the original among them.
"""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from benchmarks.latency.peer_files import METHODS, RATIOS
from benchmarks.latency.product import RefusedError, prune_to_latency
from benchmarks.latency.rows import Point
from benchmarks.latency.subjects import Places, Subject
from benchmarks.latency.turns import feed_of, in_turns
from benchmarks.speed.machine import commit, machine
from onnxpfp import __version__

__all__ = ["OURS", "Spot", "compared", "front", "latency_at", "paired"]

OURS = "onnxpfp"
SHARES = (0.9, 0.8, 0.7, 0.6, 0.5)
"""Of the latency, that onnxpfp is asked for."""
SIMPLIFIED = METHODS[0]
THREADS = 1
PEER_SECONDS = 900
"""Longest that a peer may take for one file."""
SECONDS = 5.0
"""Of runs, for every file."""

Spot = tuple[float, float]
"""Accuracy in percent, and share of the latency."""


@dataclass(frozen=True, slots=True)
class _Made:
    """A point before it is measured; the file is None where there is none."""

    point: Point
    file: Path | None


def front(spots: Iterable[Spot]) -> list[Spot]:
    """Return the spots that no other one beats in accuracy and latency at once, the slowest first."""
    kept: list[Spot] = []
    for accuracy, latency in sorted(spots, key=lambda spot: (-spot[0], spot[1])):
        if not kept or latency < kept[-1][1]:
            kept.append((accuracy, latency))
    return kept


def latency_at(spots: Sequence[Spot], accuracy: float) -> float | None:
    """Return the latency at an accuracy, on the front; None where no spot is so inaccurate, or none so accurate."""
    kept = front(spots)
    if not kept or accuracy > kept[0][0] or accuracy < kept[-1][0]:
        return None
    accuracies, latencies = zip(*reversed(kept), strict=True)
    return float(np.interp(accuracy, accuracies, latencies))


def compared(subject: Subject, places: Places, batch: int) -> list[Point]:
    """Make the files of onnxpfp and of the peers, then measure them in one run."""
    original, samples = subject.file(places), subject.calibration(places)
    before = subject.right(original, places)
    assert before is not None
    common = Point(
        network=subject.name,
        batch=batch,
        threads=THREADS,
        machine=machine(),
        commit=commit(),
        tool=f"{OURS} {__version__}",
        method=OURS,
        setting=1.0,
        before=before,
    )
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        made = [*_ours(subject, places, folder, common), *_peers(subject, places, folder, common)]
        files = [each.file for each in made if each.file is not None]
        seen = dict(zip(files, in_turns(original, files, feed_of(original, samples[:batch]), SECONDS), strict=True))
        return [
            each.point
            if each.file is None
            else replace(each.point, ratios=seen[each.file].ratios, after=subject.right(each.file, places))
            for each in made
        ]


def _ours(subject: Subject, places: Places, folder: Path, common: Point) -> Iterable[_Made]:
    for share in SHARES:
        point, out = replace(common, setting=share), folder / f"ours-{share}.onnx"
        try:
            prune_to_latency(subject, places, out, share, threads=common.threads, batch=common.batch)
        except RefusedError as error:
            yield _Made(replace(point, refused=str(error)), None)
        else:
            yield _Made(point, out)


def _peers(subject: Subject, places: Places, folder: Path, common: Point) -> Iterable[_Made]:
    """Run every peer that takes the network: Torch-Pruning needs a torch twin, which there is of the classifiers."""
    images = folder / "images.npy"
    np.save(images, subject.calibration(places))
    with_norm = subject.with_norm or subject.file
    for method in METHODS:
        package = method.split()[0]
        if package == "torch-pruning" and subject.with_norm is None:
            continue
        tool = f"{package} {_version(places, package)}"
        for ratio in (0.0,) if method == SIMPLIFIED else RATIOS:
            point, out = replace(common, tool=tool, method=method, setting=ratio), folder / f"{method}-{ratio}.onnx"
            module = ["-m", "benchmarks.latency.peer_files", str(with_norm(places)), str(images), str(out)]
            refused = _run([str(places.peers), *module, method, str(ratio)])
            yield _Made(replace(point, refused=refused), None if refused else out)


def _run(command: list[str]) -> str:
    """Run a peer; return why it has no result, or nothing."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PEER_SECONDS)
    except subprocess.TimeoutExpired:
        return f"not done after {PEER_SECONDS} s"
    said = done.stderr.strip().splitlines() or [f"ended with code {done.returncode}"]
    return said[-1] if done.returncode else ""


def _version(places: Places, package: str) -> str:
    asked = f"import importlib.metadata as m; print(m.version({package!r}))"
    return subprocess.run([str(places.peers), "-c", asked], capture_output=True, text=True, check=True).stdout.strip()


def paired(points: Sequence[Point]) -> Iterator[tuple[Point, str, float | None]]:
    """Yield every file of ours with each method of the peers and its latency at the same accuracy."""
    methods = dict.fromkeys(point.method for point in points if point.method != OURS)
    for mine in points:
        if mine.method != OURS or mine.after is None:
            continue
        for method in methods:
            spots: list[Spot] = [(mine.before, 1.0)]
            theirs = (each for each in points if each.method == method)
            spots += [(each.after, each.ratios[1]) for each in theirs if each.after is not None and each.ratios]
            yield mine, method, latency_at(spots, mine.after)
