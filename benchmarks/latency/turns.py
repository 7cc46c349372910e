"""Latency of files in turns, measured apart from what onnxpfp measures and reports.

Runs come in pairs, the original and one other file, in one process, and the order in a pair alternates (ABBA). Several
files take turns, some pairs each, and the first pairs of a turn do not count: the caches still hold what other files
left there, which makes a small network half as slow again. With one thread the time on the cores counts, so that other
work on the machine does not. With more it is what `onnxpfp.runtime.latency` counts: the clock, or where runs wait for
cores, the time on them.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxpfp.runtime.latency import compare_latency
from onnxpfp.runtime.session import Session, open_session

__all__ = ["Seen", "beside", "feed_of", "in_turns", "seconds_of"]

SECONDS = 10.0
"""Of runs, for every file beside the original."""
FEWEST, MOST = 12, 300
"""Pairs of runs."""
SKIPPED, TURN = 2, 12
"""Pairs in a turn that do not count, and that do, each order as often."""
BATCH = 16
"""Samples in one run of a forward pass."""

Floats = NDArray[np.float32]
Feed = Mapping[str, NDArray[Any]]
Pair = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Seen:
    """A file beside the original.

    Attributes:
        ratios: Lower quartile, median and upper quartile over the pairs: time of the file over that of the original.
        before_ms: Median of the original's runs.
        after_ms: Median of the file's runs.
        pairs: How many there were.
    """

    ratios: tuple[float, float, float]
    before_ms: float
    after_ms: float
    pairs: int


def feed_of(file: Path, samples: Floats) -> dict[str, NDArray[Any]]:
    """Return what a file is fed, which has one input."""
    (name,) = open_session(str(file), threads=1).inputs
    return {name: samples}


def beside(original: Path, file: Path, feed: Feed, threads: int) -> Seen:
    """Run a file in turns with its original."""
    if threads == 1:
        return in_turns(original, [file], feed)[0]
    base, other = (open_session(str(each), threads=threads, resting=True) for each in (original, file))
    found = compare_latency(base, other, feed, SECONDS, threads=threads)
    ratios = (found.ratio.low, found.ratio.median, found.ratio.high)
    return _rounded(ratios, found.original.median_ms, found.pruned.median_ms, found.original.runs)


def in_turns(original: Path, files: Sequence[Path], feed: Feed, seconds: float = SECONDS) -> list[Seen]:
    """Run files in turns with their original on one thread, all of them in every round.

    Args:
        original: The original.
        files: The others.
        feed: Inputs of one run.
        seconds: For every file.
    """
    base, *others = (open_session(str(file), threads=1, resting=True) for file in (original, *files))
    for session in (base, *others):
        session.timed(feed)
        session.timed(feed)
    took: list[list[Pair]] = [[] for _ in others]
    start = time.perf_counter()
    while len(took[0]) < FEWEST or (len(took[0]) < MOST and time.perf_counter() - start < seconds * len(files)):
        for other, pairs in zip(others, took, strict=True):
            pairs += _turn(base, other, feed)
    return [_seen(*np.array(pairs).T) for pairs in took]


def seconds_of(file: Path, samples: Floats, threads: int) -> float:
    """Return the seconds of one forward pass over all samples, sixteen at a time, by the clock."""
    (name,) = (session := open_session(str(file), threads=threads)).inputs
    parts = [samples[start : start + BATCH] for start in range(0, len(samples), BATCH)]
    session.run({name: parts[0]})
    return sum(session.timed({name: part}).wall for part in parts)


def _turn(base: Session, other: Session, feed: Feed) -> list[Pair]:
    """Run pairs that do not count, then those that do: seconds of the original, and of the other file."""
    pairs: list[Pair] = []
    for place in range(SKIPPED + TURN):
        sessions = (base, other) if place % 2 else (other, base)
        first, second = (session.timed(feed).cores for session in sessions)
        pairs.append((first, second) if place % 2 else (second, first))
    return pairs[SKIPPED:]


def _seen(before: NDArray[np.float64], after: NDArray[np.float64]) -> Seen:
    low, median, high = np.quantile(after / before, (0.25, 0.5, 0.75))
    before_ms, after_ms = (1000 * float(np.median(each)) for each in (before, after))
    return _rounded((low, median, high), before_ms, after_ms, len(before))


def _rounded(ratios: tuple[float, float, float], before_ms: float, after_ms: float, pairs: int) -> Seen:
    low, median, high = (round(float(each), 4) for each in ratios)
    return Seen((low, median, high), round(before_ms, 4), round(after_ms, 4), pairs)
