"""Latency of two models, measured in turns: what slows the machine down for a while meets both.

Runs come in pairs, one run of each model, and the order in a pair alternates (ABBA), so that neither is always the one
that finds the caches as the other left them. What is told of a model is the median of its runs, and of both the median
of the ratios within pairs; the spread is that between the quartiles, which a few runs that were disturbed do not move.

On a busy machine most runs wait for a core, longer than they compute, and wall time says nothing of the models. The
time that the process had on all cores shows it: over wall time it is how many cores worked, and less if they had to
wait. So where the runs of one model waited more than `BUSY`, time on the cores stands in the place of wall time. With
several threads it is scaled by the wall time of the fastest run, which waited least, over what that run had on the
cores, or the median run if that is less: threads that find no work spin in one run and sleep in the next, and spinning
is no work. The scale is one for both models, the larger one, for it is chance which of them had a run with more cores.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from onnxpfp.runtime.providers import CPU

__all__ = [
    "Latency",
    "LatencyComparison",
    "LatencyRatio",
    "LatencyUnknownError",
    "RunTime",
    "Timed",
    "compare_latency",
    "counts_cores",
]

MOST_PAIRS = 50
"""More would not move the median by what anybody minds."""
FEWEST_PAIRS = 2
"""Each order once: fewer say nothing, for whatever goes up or down meanwhile would count for one model alone."""
ENOUGH_PAIRS = 16
"""With so many, an even number, the measurement ends once the median of the ratios is known to `KNOWN`."""
KNOWN = 0.005
"""Standard error of that median, as a share of it: for normal numbers 0.93 of the distance of their quartiles over the
root of how many there are."""
SHARE = 0.5
"""Share of the time there is after which no further pair begins, once there are the fewest."""
BUSY = 0.1
"""Share of a run that it may wait for cores before wall time is no measure of it."""
FINEST = 1e-5
"""Seconds; a clock of the time on cores that is coarser (as on Windows) tells nothing of single runs."""
WARM = 0.02
"""Seconds; a model whose first run is shorter is run once more before anything counts."""


class RunTime(NamedTuple):
    """What a run took.

    Attributes:
        wall: Seconds from its begin to its end.
        cores: Seconds that the process had on all cores together meanwhile.
    """

    wall: float
    cores: float


class Timed(Protocol):
    """What can be run and tells how long it took: a session."""

    def timed(self, feeds: Mapping[str, NDArray[Any]]) -> RunTime:
        """Run once."""
        ...

    def timed_within(self, feeds: Mapping[str, NDArray[Any]], limit: float) -> RunTime | None:
        """Run once; None where it was stopped after so many seconds."""
        ...


class LatencyUnknownError(Exception):
    """The latency cannot be measured in the time there is; the text says why."""


@dataclass(frozen=True, slots=True)
class Latency:
    """Time of one run of a model.

    Attributes:
        median_ms: Median of the runs, in milliseconds.
        low_ms: Their lower quartile.
        high_ms: Their upper quartile.
        runs: How many there were.
    """

    median_ms: float
    low_ms: float
    high_ms: float
    runs: int


@dataclass(frozen=True, slots=True)
class LatencyRatio:
    """Time of a run of the pruned model over that of the run of the original beside it.

    Attributes:
        median: Median of the pairs.
        low: Their lower quartile: in three of four pairs it is more.
        high: Their upper quartile.
    """

    median: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class LatencyComparison:
    """Two models, run in turns.

    Attributes:
        original: The original.
        pruned: The pruned model.
        ratio: Pruned over original, pair by pair.
        waited: Share of a run that it waited for cores, median of the runs of the model that waited more; 0 where that
            is not known. Above `BUSY` times are those on the cores.
        pair: Wall time of a run of each, in seconds, median.
    """

    original: Latency
    pruned: Latency
    ratio: LatencyRatio
    waited: float
    pair: float


def counts_cores(providers: Sequence[str]) -> bool:
    """Tell whether the time on cores is that of a model, and fine enough: all of it runs on the CPU."""
    return set(providers) == {CPU} and time.get_clock_info("process_time").resolution <= FINEST


def compare_latency(
    original: Timed,
    pruned: Timed,
    feed: Mapping[str, NDArray[Any]],
    seconds: float,
    *,
    threads: int | None = None,
    cores: bool = True,
) -> LatencyComparison:
    """Run two models in turns.

    Args:
        original: The original.
        pruned: The pruned model.
        feed: Inputs of one run.
        seconds: What all runs together may take. No run of unknown length begins that is not stopped then; a pair
            that takes longer than the one before may go over it by the difference.
        threads: Threads of both; None if that is not known.
        cores: Whether the time on cores counts where runs wait for them (`counts_cores`).

    Raises:
        LatencyUnknownError: Not even `FEWEST_PAIRS` fit, or the clock is too coarse for them.
        ModelError: One does not run.
    """
    spent, pair = _warm_up([original, pruned], feed, seconds)
    runs: list[tuple[RunTime, RunTime]] = []
    while len(runs) < MOST_PAIRS and not _is_known(runs):
        needed = max(FEWEST_PAIRS - len(runs), 1)
        if spent + needed * pair > (seconds if len(runs) < FEWEST_PAIRS else SHARE * seconds):
            break
        one, two = (original, pruned) if len(runs) % 2 == 0 else (pruned, original)
        first, second = one.timed(feed), two.timed(feed)
        runs.append((first, second) if one is original else (second, first))
        pair = first.wall + second.wall
        spent += pair
    if len(runs) < FEWEST_PAIRS:
        raise LatencyUnknownError(_too_long(seconds, f"{FEWEST_PAIRS} pairs of runs beside one to warm up take longer"))
    times = np.array(runs)
    wall, computing = times[..., 0], times[..., 1]
    if not wall.all():
        raise LatencyUnknownError("a run is shorter than the clock can tell")
    waited = 0.0
    if cores and computing.all():
        if threads != 1:
            fastest = np.take_along_axis(computing, wall.argmin(axis=0)[None], axis=0)
            computing *= (wall.min(axis=0) / np.minimum(fastest, np.median(computing, axis=0))).max()
        waited = max(1 - float(np.median(computing / wall, axis=0).min()), 0.0)
    before, after = (computing if waited > BUSY else wall).T
    ratio, pair = LatencyRatio(*_quartiles(after / before)), float(np.median(wall.sum(axis=1)))
    return LatencyComparison(_latency(before), _latency(after), ratio, waited, pair)


def _is_known(runs: Sequence[tuple[RunTime, RunTime]]) -> bool:
    """Whether so many pairs of runs tell the ratio of the models well enough."""
    if len(runs) < ENOUGH_PAIRS or len(runs) % 2:
        return False
    median, low, high = _quartiles(np.array([after.wall / max(before.wall, FINEST) for before, after in runs]))
    return high - low <= KNOWN * median * len(runs) ** 0.5


def _warm_up(models: Sequence[Timed], feed: Mapping[str, NDArray[Any]], seconds: float) -> tuple[float, float]:
    """Run each model once, and short ones twice; returns the seconds of all, and those of the last of each."""
    spent = pair = taken = 0.0
    for model in models:
        for _ in range(2):
            run = model.timed_within(feed, seconds - spent)
            if run is None:
                raise LatencyUnknownError(_too_long(seconds, "a single run takes longer"))
            taken = run.wall
            spent += taken
            if taken >= WARM:
                break
        pair += taken
    return spent, pair


def _too_long(seconds: float, what: str) -> str:
    return f"it may take {seconds:.3g} s, and {what}"


def _latency(seconds: NDArray[np.float64]) -> Latency:
    median, low, high = _quartiles(1000 * seconds)
    return Latency(median, low, high, seconds.size)


def _quartiles(values: NDArray[np.float64]) -> tuple[float, float, float]:
    """Return the median and both quartiles; of few values those that were measured, not what lies between them."""
    low, high = np.quantile(values, 0.25, method="lower"), np.quantile(values, 0.75, method="higher")
    return float(np.median(values)), float(low), float(high)
