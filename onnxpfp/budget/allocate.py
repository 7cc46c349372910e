"""How many channels each group keeps, by one scalar t for the whole network.

Source: the sample allocation of PFP (Liebenwein et al., ICLR 2020) in the form of the authors'
code. A group with scores s, S = sum s and p = s / S is given draws in proportion to S, and keeps
as many channels as these draws are expected to hit:

    m(t) = max(1, ceil(t * S * weight))
    n(t) = ceil( sum_j 1 - (1 - p_j)^m )

One t for all groups stands for one relative error for all layers, which minimises the largest
layer bound at a given cost.

All of it is one ordered list of *steps*. A step widens one group to its next allowed width; it
has a position: the t from which on n(t) asks for it. Channels that no t ever asks for (score 0)
come after all of these, evenly over the groups, at positions (infinity, width / n). Steps are
taken in the order of their positions while they fit the budget. The first one that does not fit
marks t, the largest t whose cost fits. The group of a step that does not fit stays as it is, since
the cost only grows; the others go on (the *fill*), until no step fits. Hence:

  * the cost is monotone in the target: at the first step that only the larger budget admits, it
    already costs more than the smaller budget;
  * no single step of any group fits the budget any more.

Bisection only jumps over the long first part of the list.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnxpfp.budget.cost import CostModel
from onnxpfp.errors import TargetUnreachableError
from onnxpfp.score.pfp import draws_to_reach, log_miss, probabilities

__all__ = ["Allocation", "Demand", "allocate"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]

_SLACK = 1e-9
"""Taken off before rounding up, so that rounding errors do not ask for one more channel."""

_NEGLIGIBLE = 1e-100
"""Groups with fewer draws per t than this count as all zero, so that every finite t is a float."""


@dataclass(frozen=True, slots=True, eq=False)
class Demand:
    """What one group asks for.

    Attributes:
        scores: One score per channel, (n,) float64, finite and not negative, n >= 1.
        weight: Factor of the draws: ln(8 (P + 1) k / 1e-16) for parity with the authors' code,
            where P is patches and k kernel size, or 1.
        minimum: Fewest channels that must stay.
        step: Widths are multiples of it, or the full width.
    """

    scores: Floats
    weight: float = 1.0
    minimum: int = 1
    step: int = 1

    def __post_init__(self) -> None:
        if self.scores.ndim != 1 or self.scores.shape[0] == 0:
            raise ValueError(f"scores must be a vector of at least one, got {self.scores.shape}")
        if self.minimum < 1 or self.step < 1 or not 0.0 < self.weight < math.inf:
            raise ValueError("minimum and step must be at least 1, weight positive and finite")
        if not math.isfinite(self.rate):
            raise ValueError("the sum of the scores must be finite")

    @property
    def rate(self) -> float:
        """Draws per unit of t: S * weight; 0 if the scores are too small to divide by."""
        rate = self.weight * float(self.scores.sum(dtype=np.float64))
        return 0.0 if rate < _NEGLIGIBLE else rate


@dataclass(frozen=True, slots=True)
class Allocation:
    """How many channels each group keeps.

    Attributes:
        kept: Channels kept by each demand, in the order given.
        t: Largest t whose cost fits the target, before the fill. Infinity if only channels of
            score 0 were left to take, or if everything stays.
        cost: Cost of `kept`.
        full_cost: Cost with all channels.
    """

    kept: tuple[int, ...]
    t: float
    cost: int
    full_cost: int


def allocate(demands: Sequence[Demand], cost: CostModel, target: float) -> Allocation:
    """Choose the widths of all groups so that the cost lies just under a target.

    Each width is a multiple of the group's step, at least its minimum, or the full width; a group
    that is narrower than its step stays whole.

    Args:
        demands: One per group of the cost model, in its order.
        cost: Cost of a choice of widths.
        target: Share of the full cost to stay within, 0 < target <= 1.

    Raises:
        ValueError: If the target is out of range or demands and cost model do not fit.
        TargetUnreachableError: If even the smallest widths cost more.
    """
    if not 0.0 < target <= 1.0:
        raise ValueError(f"target must be in (0, 1], got {target}")
    if len(demands) != cost.n_groups:
        raise ValueError(f"{len(demands)} demands for {cost.n_groups} groups")
    full = np.array([d.scores.shape[0] for d in demands], dtype=np.int64)
    full_cost = cost.total(full)
    # 0.29 * 100 is 28.999999999999996; asking for 29 % must admit 29 of 100.
    budget = math.floor(target * full_cost * (1.0 + 1e-12))

    def fits(kept: Ints) -> bool:
        return cost.total(kept) <= budget

    if fits(full):
        return Allocation(tuple(full.tolist()), math.inf, full_cost, full_cost)
    if not demands:
        raise TargetUnreachableError(
            f"The target is {target:.1%} of the full cost, but nothing in this network can go.",
            hint="Run `onnxpfp inspect` to see why every channel must stay.",
        )
    curves = _curves(demands)
    least = cost.total(curves.first)
    if least > budget:
        raise _unreachable(target, least, full_cost)
    kept, t = _climb(curves, fits)
    return Allocation(tuple(kept.tolist()), t, cost.total(kept), full_cost)


def _unreachable(target: float, least: int, full_cost: int) -> TargetUnreachableError:
    share = math.ceil(1000.0 * least / full_cost) / 1000.0
    return TargetUnreachableError(
        f"The target is {target:.1%} of the full cost, but {share:.1%} is the least that can be "
        f"reached ({least} of {full_cost}).",
        hint=f"Lower --round-to or --min-channels, or ask for a target of at least {share:.3f}.",
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Curves:
    """The widths that all groups ask for at a position, vectorised over the groups.

    Attributes:
        miss: ln(1 - p_j) of all channels that can be drawn, group after group.
        start: Where each group begins in `miss`, (G,).
        alive: Channels that can be drawn, (G,).
        rate: Draws per unit of t, S * weight, (G,); 0 if all scores are.
        step: Step, (G,).
        first: Smallest width, (G,).
        last: Largest multiple of the step, or the full width if there is none, (G,).
        full: All channels, (G,).
    """

    miss: Floats
    start: Ints
    alive: Ints
    rate: Floats
    step: Ints
    first: Ints
    last: Ints
    full: Ints

    def at(self, t: float, dead: float = 0.0) -> Ints:
        """Return the allowed width next to n(t), but at least to dead * n, (G,) int64."""
        if math.isinf(t):
            wanted = np.where(self.rate > 0.0, self.alive, 1)
        else:
            draws = np.maximum(1.0, np.ceil(t * self.rate * (1.0 - 1e-12)))
            hit = -np.expm1(np.repeat(draws, self.alive) * self.miss)
            wanted = np.ceil(np.add.reduceat(hit, self.start) - _SLACK).astype(np.int64)
        wanted = np.maximum(wanted, np.floor(dead * self.full + _SLACK).astype(np.int64))
        near = (2 * wanted + self.step) // (2 * self.step) * self.step
        near = np.clip(near, self.first, self.last)
        return np.where(2 * wanted >= self.last + self.full, self.full, near)

    def next_width(self, group: int, width: int) -> int:
        """Return the next allowed width above a width, which must not be the full one."""
        wider = width + int(self.step[group])
        return wider if wider <= self.last[group] else int(self.full[group])

    def position(self, group: int, width: int) -> tuple[float, float]:
        """Return from which (t, dead) on `at` asks for the next width above a width."""
        wanted = (width + self.next_width(group, width) + 1) // 2  # nearest, halves go up
        rate, alive = float(self.rate[group]), int(self.alive[group])
        if wanted > (alive if rate > 0.0 else 1):
            return math.inf, wanted / int(self.full[group])
        begin = int(self.start[group])
        draws = draws_to_reach(self.miss[begin : begin + alive], wanted)
        return (draws - 1) / rate if draws > 1 else 0.0, 0.0


def _curves(demands: Sequence[Demand]) -> _Curves:
    chances = [probabilities(d.scores) for d in demands]
    drawable = [p[p > 0.0] for p in chances]
    alive = np.array([p.shape[0] for p in drawable], dtype=np.int64)
    full = np.array([p.shape[0] for p in chances], dtype=np.int64)
    step = np.array([d.step for d in demands], dtype=np.int64)
    minimum = np.array([d.minimum for d in demands], dtype=np.int64)
    first = -(-minimum // step) * step
    return _Curves(
        miss=log_miss(np.concatenate(drawable)),
        start=np.cumsum(alive) - alive,
        alive=alive,
        rate=np.array([d.rate for d in demands], dtype=np.float64),
        step=step,
        first=np.where(first > full, full, first),
        last=np.where(first > full, full, full // step * step),
        full=full,
    )


def _climb(curves: _Curves, fits: Callable[[Ints], bool]) -> tuple[Ints, float]:
    """Take all steps that fit, in the order of their positions; return widths and t."""
    kept = curves.first.copy()
    stuck = kept == curves.full
    t: float | None = None
    while not stuck.all():
        kept = _jump(curves, kept, stuck, fits)
        stuck |= kept == curves.full
        blocked = _walk(curves, kept, stuck, fits)
        t = blocked if t is None else t
    return kept, math.inf if t is None else t


def _walk(curves: _Curves, kept: Ints, stuck: Flags, fits: Callable[[Ints], bool]) -> float | None:
    """Take steps one by one, in place, until none is left or a jump would be faster.

    Returns:
        The t of the first step that did not fit, or None if all did.
    """
    queue = [(curves.position(g, int(kept[g])), g) for g in np.flatnonzero(~stuck).tolist()]
    heapq.heapify(queue)
    blocked: float | None = None
    in_a_row, patience = 0, 256 + 2 * len(queue)
    while queue and in_a_row < patience:
        (t, _), group = heapq.heappop(queue)
        width = int(kept[group])
        kept[group] = curves.next_width(group, width)
        if fits(kept):
            in_a_row += 1
            stuck[group] = kept[group] == curves.full[group]
        else:
            in_a_row = 0
            kept[group] = width
            stuck[group] = True
            blocked = t if blocked is None else blocked
        if not stuck[group]:
            heapq.heappush(queue, (curves.position(group, int(kept[group])), group))
    return blocked


def _jump(curves: _Curves, kept: Ints, stuck: Flags, fits: Callable[[Ints], bool]) -> Ints:
    """Return widths that fit, close below the first step that does not.

    Only groups that are not stuck move. Where the walk takes over does not change the result.
    """

    def at(t: float, dead: float = 0.0) -> Ints:
        return np.where(stuck, kept, np.maximum(kept, curves.at(t, dead)))

    limit = at(math.inf)
    if fits(limit):
        return _bisect(lambda u: at(math.inf, u), 0.0, 1.0, curves.step, fits)
    # Up to t = 1 / rate every group has one draw, and nothing has moved.
    low = 1.0 / float(curves.rate[~stuck].max())
    high = 2.0 * low
    while fits(at(high)):
        low, high = high, 2.0 * high
    return _bisect(at, low, high, curves.step, fits)


def _bisect(
    at: Callable[[float], Ints],
    low: float,
    high: float,
    step: Ints,
    fits: Callable[[Ints], bool],
) -> Ints:
    """Narrow down the largest x whose widths fit, until few steps lie between the two ends.

    Args:
        at: Widths at x, rising.
        low: An x that fits.
        high: An x that does not, or the end of the range.
        step: Step of each group, (G,).
        fits: Whether widths fit the budget.
    """
    lower, upper = at(low), at(high)
    while np.sum((upper - lower) // step) > 2 * step.shape[0] and high > low * (1.0 + 1e-12):
        middle = (low + high) / 2.0
        widths = at(middle)
        if fits(widths):
            low, lower = middle, widths
        else:
            high, upper = middle, widths
    return lower
