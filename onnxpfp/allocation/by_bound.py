"""Allocation by the bound: the widths of all groups from one scalar t.

`demand.py` says what width a group asks for at t: one t stands for one error of all groups, which
minimises the largest bound at a given cost. Steps are taken in the order of their positions while
they fit the budget. The first one that does not fit marks t, the largest t whose cost fits. The group
of a step that does not fit stays as it is, since the cost only grows; the others go on (the *fill*),
until no step fits. Hence:

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

from onnxpfp.allocation.cost import CostModel
from onnxpfp.allocation.demand import Curves, Demand, DemandRule, curves_of
from onnxpfp.allocation.widths import budget_of, unreachable
from onnxpfp.arrays import Bools, Ints
from onnxpfp.errors import TargetUnreachableError

__all__ = ["Allocation", "Demand", "DemandRule", "allocate_by_bound"]


@dataclass(frozen=True, slots=True)
class Allocation:
    """The number of channels that each group keeps.

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


def allocate_by_bound(
    demands: Sequence[Demand], cost: CostModel, target: float, rule: DemandRule, reference: int | None = None
) -> Allocation:
    """Choose the widths of all groups so that the cost lies just under a target.

    Each width is a multiple of the group's step, at least its minimum, or the full width; a group
    that is narrower than its step stays whole.

    Args:
        demands: One per group of the cost model, in its order.
        cost: Cost of a choice of widths.
        target: Share of the full cost to stay within, 0 < target <= 1.
        rule: How t becomes a width.
        reference: The full cost that `target` is a share of, where pruning adds to the cost; by default
            that of all channels.

    Raises:
        ValueError: If the target is out of range or demands and cost model do not fit.
        TargetUnreachableError: If even the smallest widths cost more.
    """
    if not 0.0 < target <= 1.0:
        raise ValueError(f"target must be in (0, 1], got {target}")
    if len(demands) != cost.n_groups:
        raise ValueError(f"{len(demands)} demands for {cost.n_groups} groups")
    full = np.array([d.scores.shape[0] for d in demands], dtype=np.int64)
    full_cost = cost.total(full) if reference is None else reference
    budget = budget_of(target, full_cost)

    def fits(kept: Ints) -> bool:
        return cost.total(kept) <= budget

    if fits(full):
        return Allocation(tuple(full.tolist()), math.inf, full_cost, full_cost)
    if not demands:
        raise TargetUnreachableError(
            f"the target is {target:.1%} of the {cost.counts}, but nothing in this network can go",
            hint="see why every channel must stay in the report of --keep-macs 1",
        )
    curves = curves_of(demands, rule)
    least = cost.total(curves.first)
    if least > budget:
        raise unreachable(cost.counts, target, least, full_cost, cost.total(np.ones_like(full)))
    kept, t = _climb(curves, fits)
    return Allocation(tuple(kept.tolist()), t, cost.total(kept), full_cost)


def _climb(curves: Curves, fits: Callable[[Ints], bool]) -> tuple[Ints, float]:
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


def _walk(curves: Curves, kept: Ints, stuck: Bools, fits: Callable[[Ints], bool]) -> float | None:
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


def _jump(curves: Curves, kept: Ints, stuck: Bools, fits: Callable[[Ints], bool]) -> Ints:
    """Return widths that fit, close below the first step that does not.

    Only groups that are not stuck move. Where the walk takes over does not change the result.
    """

    def at(t: float, dead: float = 0.0) -> Ints:
        return np.where(stuck, kept, np.maximum(kept, curves.at(t, dead)))

    limit = at(math.inf)
    if fits(limit):
        return _bisect(lambda u: at(math.inf, u), 0.0, 1.0, curves.step, fits)
    low = curves.begin(~stuck)
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
