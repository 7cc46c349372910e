"""Fixed-sequence testing: the smallest of several shares that held-out samples promise, at the full alpha each.

The search (`onnxpfp.allocation.search`) runs on tuning samples as wildly as it likes. What it found fixes an order of
shares from mild to harsh (`order_of`); the held-out samples test them in that order until the first that fails
(`descend`). The last that passed is what may be promised: the fixed-sequence testing of Angelopoulos, Bates, Candes,
Jordan, Lei, "Learn then Test", 2021, arXiv 2110.01052. That a search on other samples sets the order is Pareto Testing,
Laufer-Goldshtein, Fisch, Barzilay, Jaakkola, 2022, arXiv 2210.07913.

Theorem. Let the held-out samples be drawn independently of the fit and tuning samples, let the order c_1, c_2, ... and
the pruning that each share stands for be functions of fit and tuning samples alone, and let every test pass a share
that does not have the property with a probability of at most alpha. Then the descent returns a share without the
property with a probability of at most alpha.

Proof. Fix the fit and tuning samples. Then the order is fixed, and so is the first j for which c_j does not have the
property. To return any share without it, the descent must have passed all shares up to that one, and c_j is among
these. So it has passed c_j, which has a probability of at most alpha. As that is so for any fit and tuning samples, it
is so on average over them. No correction for the number of shares is needed, none of them has to be better than the
next, and all that passed have the property together.

A pruning is made only when the descent reaches it, which changes nothing of that: what it is has been fixed before.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from onnxpfp.allocation.search import WHOLE, SearchResult, smallest_percent

__all__ = ["Descent", "ShareTest", "descend", "order_of"]

RUNGS = (15, 10, 6, 3, -3, -6, -10)
"""Percentages to test, from the one that the search found. Tuning and held-out samples differ by chance, a few hundred
of them by up to 15 % of the MACs, so the order begins that far on the mild side. In simulations
(`tests/allocation/test_fixed_sequence.py`) testing every whole percentage from the mildest on gets less than 2 % of the
MACs further, with more than twice the prunings."""
FIRST = 97
"""Percentage to test first where the order would begin below `MILD`. A first share that fails ends the descent with
nothing, and lucky tuning samples can put it too low: that refused 7 of 200 targets on ResNet-20 that milder shares keep
(`benchmarks/promises/searches.py`), with this share first none, for one more pruning."""
MILD = 95
"""Percentage from which on a first share is mild enough."""
NEAR = 1
"""Rungs so near to a share that the search has tried are left out: that one costs no further pruning."""


@dataclass(frozen=True, slots=True)
class ShareTest:
    """The test of one share on held-out samples.

    Attributes:
        share: The share, a whole percentage, in (0, 1).
        observed: What was measured on the held-out samples.
        bound: What they promise of inputs that nobody has seen.
        passed: Whether that is good enough.
    """

    share: float
    observed: float
    bound: float
    passed: bool


@dataclass(frozen=True, slots=True)
class Descent:
    """The result of fixed-sequence testing.

    Attributes:
        order: All shares that could have been tested: any other promise of the one that passed last has to count them.
        tests: Those that were, in their order: all but the last one passed.
    """

    order: tuple[float, ...]
    tests: tuple[ShareTest, ...]

    @property
    def passed(self) -> ShareTest | None:
        """The last test that was passed; None where the first failed."""
        return next((test for test in reversed(self.tests) if test.passed), None)


def order_of(found: SearchResult, least: float) -> tuple[float, ...]:
    """Return the shares to test, from mild to harsh: those that a search tried, and rungs around what it found.

    Good ones above the share that was found are a way back, bad ones below it a way on. Bad ones above it are left out:
    they would end the descent.

    Args:
        found: The search, on samples that test nothing.
        least: The smallest share that can be reached, in [0, 1].
    """
    tried = {
        round(WHOLE * trial.share)
        for trial in found.trials
        if trial.good or found.share is None or trial.share < found.share
    }
    rungs = set[int]()
    if found.share is not None:
        wanted = (round(WHOLE * found.share) + rung for rung in RUNGS)
        rungs = {percent for percent in wanted if all(abs(percent - other) > NEAR for other in tried)}
    bottom = smallest_percent(least)
    percents = {percent for percent in tried | rungs if bottom <= percent < WHOLE}
    if found.share is not None and percents and max(percents) < MILD and bottom <= FIRST:
        percents.add(FIRST)
    return tuple(percent / WHOLE for percent in sorted(percents, reverse=True))


def descend(order: Sequence[float], test: Callable[[float], ShareTest]) -> Descent:
    """Test shares in their order until the first that fails.

    Args:
        order: The shares; nothing that the tests are made on may have had a say in it.
        test: Tests one share on held-out samples.
    """
    tests: list[ShareTest] = []
    for share in order:
        tests.append(test(share))
        if not tests[-1].passed:
            break
    return Descent(tuple(order), tuple(tests))
