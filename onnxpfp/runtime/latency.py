"""Latency of two models, measured in turns: what slows the machine down for a while meets both.

Runs come in pairs, one run of each model, and the order in a pair alternates (ABBA), so that neither is always the one
that finds the caches as the other left them. What is told of a model is the median of its runs, and of both the median
of the ratios within pairs; the spread is that between the quartiles, which a few runs that were disturbed do not move.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["Latency", "LatencyComparison", "LatencyRatio", "LatencyUnknownError", "Timed", "compare_latency"]

MOST_PAIRS = 50
"""More would not move the median by what anybody minds."""
FEWEST_PAIRS = 2
"""Each order once: fewer say nothing, for whatever goes up or down meanwhile would count for one model alone."""
SHARE = 0.5
"""Share of the time there is after which no further pair begins, once there are the fewest."""
WARM = 0.02
"""Seconds; a model whose first run is shorter is run once more before anything counts."""


class Timed(Protocol):
    """What can be run and tells how long it took: a session."""

    def seconds(self, feeds: Mapping[str, NDArray[Any]]) -> float:
        """Run once."""
        ...

    def seconds_within(self, feeds: Mapping[str, NDArray[Any]], limit: float) -> float | None:
        """Run once; None where it was stopped after so many seconds."""
        ...


class LatencyUnknownError(Exception):
    """The latency cannot be measured in the time there is; the text says why."""


@dataclass(frozen=True, slots=True)
class Latency:
    """Wall time of one run of a model.

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
    """

    original: Latency
    pruned: Latency
    ratio: LatencyRatio


def compare_latency(
    original: Timed, pruned: Timed, feed: Mapping[str, NDArray[Any]], seconds: float
) -> LatencyComparison:
    """Run two models in turns.

    Args:
        original: The original.
        pruned: The pruned model.
        feed: Inputs of one run.
        seconds: What all runs together may take. No run of unknown length begins that is not stopped then; a pair
            that takes longer than the one before may go over it by the difference.

    Raises:
        LatencyUnknownError: Not even `FEWEST_PAIRS` fit.
        ModelError: One does not run.
    """
    spent, pair = _warm_up([original, pruned], feed, seconds)
    times: list[tuple[float, float]] = []
    while len(times) < MOST_PAIRS:
        needed = max(FEWEST_PAIRS - len(times), 1)
        if spent + needed * pair > (seconds if len(times) < FEWEST_PAIRS else SHARE * seconds):
            break
        one, two = (original, pruned) if len(times) % 2 == 0 else (pruned, original)
        first, second = one.seconds(feed), two.seconds(feed)
        times.append((first, second) if one is original else (second, first))
        pair = first + second
        spent += pair
    if len(times) < FEWEST_PAIRS:
        raise LatencyUnknownError(_too_long(seconds, f"{FEWEST_PAIRS} pairs of runs beside one to warm up take longer"))
    before, after = np.array(times).T
    return LatencyComparison(_latency(before), _latency(after), LatencyRatio(*_quartiles(after / before)))


def _warm_up(models: Sequence[Timed], feed: Mapping[str, NDArray[Any]], seconds: float) -> tuple[float, float]:
    """Run each model once, and short ones twice; returns the seconds of all, and those of the last of each."""
    spent = pair = taken = 0.0
    for model in models:
        for _ in range(2):
            taken = model.seconds_within(feed, seconds - spent)
            if taken is None:
                raise LatencyUnknownError(_too_long(seconds, "a single run takes longer"))
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
