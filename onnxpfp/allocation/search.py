"""The smallest share that is good enough, where every trial is expensive and nothing promises that more is better.

A coarse grid is gone down first. One share that fails may be a bump, two in a row are the end of what is good. Then the
gap between the smallest good share and the one that failed below it is halved until it is as small as the samples can
tell.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["WHOLE", "SearchResult", "Trial", "search", "smallest_percent"]

GRID = (80, 60, 40, 20)
"""Percentages that are tried first; the smallest reachable one is the last."""
WHOLE = 100
PATIENCE = 2
"""So many failures in a row end the way down."""
GAP = 5
"""Percentages between the smallest good share and the one that fails below it, at most: a few hundred samples tell no
more. Where no share is good yet, all are looked at down to 1 %."""


@dataclass(frozen=True, slots=True)
class Trial:
    """One share that was tried.

    Attributes:
        share: What was asked for, a whole percentage, in (0, 1).
        value: What was measured there.
        good: Whether that is good enough.
    """

    share: float
    value: float
    good: bool


@dataclass(frozen=True, slots=True)
class SearchResult:
    """The result of a search.

    Attributes:
        share: The smallest share that is good enough; None where none below 1 is.
        trials: All trials, in their order.
    """

    share: float | None
    trials: tuple[Trial, ...]


def search(attempt: Callable[[float], Trial], least: float) -> SearchResult:
    """Search the smallest share that is good enough, to 5 %.

    Args:
        attempt: Tries one share. No share is tried twice.
        least: The smallest share that can be tried, in [0, 1].
    """
    trials: list[Trial] = []

    def good(percent: int) -> bool:
        trials.append(attempt(percent / WHOLE))
        return trials[-1].good

    bottom = smallest_percent(least)
    best, failed = WHOLE, list[int]()
    for percent in [percent for percent in (*(p for p in GRID if p > bottom), bottom) if percent < WHOLE]:
        if good(percent):
            best, failed = percent, []
        else:
            failed.append(percent)
        if len(failed) == PATIENCE:
            break
    while failed and best - failed[0] > (1 if best == WHOLE else GAP):
        middle = (best + failed[0]) // 2
        if good(middle):
            best = middle
        else:
            failed[0] = middle
    return SearchResult(best / WHOLE if best < WHOLE else None, tuple(trials))


def smallest_percent(least: float) -> int:
    """Return the smallest whole percentage that can be reached.

    Args:
        least: The smallest share, in [0, 1].
    """
    return max(1, math.ceil(WHOLE * least - 1e-9))
