"""The smallest share that is good enough, where every trial is expensive and nothing promises that more is better.

A coarse grid is gone down first. One share that fails may be a bump, two in a row are the end of what is good. Then the
gap between the smallest good share and the one that failed below it is halved.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["SearchResult", "Trial", "search"]

GRID = (80, 60, 40, 20)
"""Percentages that are tried first; the smallest reachable one is the last."""
WHOLE = 100
PATIENCE = 2
"""So many failures in a row end the way down."""


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


def search(measure: Callable[[float], float], holds: Callable[[float], bool], least: float) -> SearchResult:
    """Search the smallest share that is good enough, to 1 %.

    Args:
        measure: Measures one share. No share is measured twice.
        holds: Whether what was measured is good enough.
        least: The smallest share that can be measured, in [0, 1].
    """
    trials: list[Trial] = []

    def good(percent: int) -> bool:
        value = measure(percent / WHOLE)
        trials.append(Trial(percent / WHOLE, value, holds(value)))
        return trials[-1].good

    bottom = max(1, math.ceil(WHOLE * least - 1e-9))
    best, failed = WHOLE, list[int]()
    for percent in [percent for percent in (*(p for p in GRID if p > bottom), bottom) if percent < WHOLE]:
        if good(percent):
            best, failed = percent, []
        else:
            failed.append(percent)
        if len(failed) == PATIENCE:
            break
    while failed and best - failed[0] > 1:
        middle = (best + failed[0]) // 2
        if good(middle):
            best = middle
        else:
            failed[0] = middle
    return SearchResult(best / WHOLE if best < WHOLE else None, tuple(trials))
