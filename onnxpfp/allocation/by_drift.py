"""Widths by what they do to the network's output, as it was measured group by group.

Every group has a response curve: the drift of the output when it alone is pruned. Starting with all channels, the group
whose narrowing adds the least drift per cost that it saves is narrowed, until the target is met; what is left of the
budget is given back where it takes away the most drift. Drifts of several groups are taken to add up.

That is not so for a *stream*, a group that is read at several depths of the network: what it loses is missing from the
inputs of all refits behind, which have to repair the other groups' damage with what is left. So streams stay whole as
long as the others can meet the target with little more drift (docs/design.md, "Widths by measured drift").
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from onnxpfp.allocation.widths import budget_of, unreachable, widths_of
from onnxpfp.arrays import Floats, Ints

__all__ = ["Cost", "ResponseCurve", "allocate_by_drift", "foreseen_drift"]


FLOOR = 1e-6
"""Drifts below it are noise."""
LEAST_LOSS = 1e-6
"""Losses below it are rounding."""
POWER = 1.2
"""The drift of the output grows so with what the consumers lose: 1.17 is the median over the groups of ResNet-56."""
STREAMS_WORTH = 2.0
"""Times the drift that the other groups may have for streams to stay whole.

With whole streams ResNet-20 is better by half a point or more at 0.7 and 0.5 of the MACs (up to 1.6 times the drift);
a small MobileNet is worse by up to 4 points at 4 times the drift and more.
"""
STREAMS_LOSS = 1.0
"""How much more drift it may be: at 0.3 of the MACs ResNet-56 is worse by 7 points with 6.4 in place of 3.8."""
MOVES = 64
"""A group is narrowed in at most about so many moves; what is left of the budget then goes by single steps."""


class Cost(Protocol):
    """What a choice of widths costs; more never costs less."""

    @property
    def n_groups(self) -> int:
        """Number of groups G, layers whose ranks are chosen counted."""
        ...

    @property
    def counts(self) -> str:
        """What it counts, as people call it."""
        ...

    def total(self, kept: Ints) -> int:
        """Return the cost of widths, (G,)."""
        ...

    def saved_at(self, kept: Ints, group: int, widths: Ints) -> Ints:
        """Return how much less it costs if one group has other widths, (W,)."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class ResponseCurve:
    """Drift of the output over the width of one group.

    Attributes:
        widths: All widths that the group may have, ascending; the last is the full one.
        drift: Drift at each, falling to 0 at full width.
        stream: Whether the group is read at several depths.
    """

    widths: Ints
    drift: Floats
    stream: bool = False

    @classmethod
    def of(
        cls,
        size: int,
        step: int,
        minimum: int,
        widths: Ints,
        drift: Sequence[float],
        losses: Sequence[float] | None = None,
        *,
        stream: bool = False,
    ) -> ResponseCurve:
        """Make a curve of measured points, monotone, and straight between them in the logarithm.

        Where losses are known at more widths than drifts, the drift is a multiple of a power of the loss (`POWER`), the
        measured one where it was measured, and between such widths one between theirs.

        Args:
            size: Channels of the group.
            step: Its widths are multiples of this.
            minimum: Fewest channels that stay.
            widths: Some widths, ascending, without the full one.
            drift: What was measured there, not negative; NaN where nothing was measured.
            losses: What the group's consumers lose there, not negative; None where that is not known.
            stream: Whether the group is read at several depths.
        """
        known = np.append(_filled(np.asarray(widths), np.asarray(drift, np.float64), losses), 0.0)
        falling = np.maximum.accumulate(known[::-1])[::-1]
        allowed = widths_of(size, step, minimum)
        drifts = np.exp(np.interp(allowed, np.append(widths, size), np.log(falling + FLOOR)))
        drifts[-1] = 0.0
        return cls(allowed, drifts, stream)

    def at(self, widths: Ints) -> ResponseCurve:
        """Return the same curve at other widths, ascending, straight between its own in the logarithm.

        Args:
            widths: The widths; the last is the full one.
        """
        if np.array_equal(widths, self.widths):
            return self
        drifts = np.exp(np.interp(widths, self.widths, np.log(self.drift + FLOOR))) - FLOOR
        drifts[-1] = 0.0
        return ResponseCurve(widths, np.maximum(drifts, 0.0), self.stream)

    @property
    def whole(self) -> ResponseCurve:
        """The curve of the same group where it has to stay whole."""
        return ResponseCurve(self.widths[-1:], self.drift[-1:], self.stream)

    def times(self, factor: float) -> ResponseCurve:
        """Return the same curve with so many times the drift; infinitely many leave the group whole."""
        return self.whole if factor == np.inf else ResponseCurve(self.widths, factor * self.drift, self.stream)

    def raised(self, power: float) -> ResponseCurve:
        """Return the same curve with a power of the drift: above 1 cuts are spread over more groups."""
        return self if power == 1.0 else ResponseCurve(self.widths, self.drift**power, self.stream)

    @property
    def free(self) -> ResponseCurve:
        """The curve of the same group where it may be cut as others, though it is read at several depths."""
        return ResponseCurve(self.widths, self.drift) if self.stream else self


def foreseen_drift(curves: Sequence[ResponseCurve], kept: Ints) -> float:
    """Return the sum of the drifts of all groups.

    Args:
        curves: One per group.
        kept: Channels kept of each group, (groups,), each a width of its curve.
    """
    pairs = zip(curves, kept, strict=True)
    return sum(float(curve.drift[np.searchsorted(curve.widths, width)]) for curve, width in pairs)


def _filled(widths: Ints, drift: Floats, losses: Sequence[float] | None) -> Floats:
    """Return the drift at all widths, (W,).

    What a group does that goes entirely tells nothing of how its drift falls with the width, but that it is not more.
    """
    if widths.size > 1 and widths[0] == 0 and np.isfinite(drift[1:]).any() and np.isfinite(drift[0]):
        rest = _filled(widths[1:], drift[1:], None if losses is None else losses[1:])
        return np.append(drift[0], np.where(np.isfinite(drift[1:]), rest, np.minimum(rest, drift[0])))
    measured = np.isfinite(drift)
    if measured.all():
        return drift
    if losses is None:
        return np.exp(np.interp(widths, widths[measured], np.log(drift[measured] + FLOOR)))
    shape = POWER * np.log(np.maximum(np.asarray(losses, np.float64), LEAST_LOSS))
    height = np.log(drift[measured] + FLOOR) - shape[measured]
    filled = np.exp(shape + np.interp(widths, widths[measured], height))
    filled[measured] = drift[measured]
    return filled


def allocate_by_drift(curves: Sequence[ResponseCurve], cost: Cost, target: float, reference: int | None = None) -> Ints:
    """Choose the widths of all groups.

    Args:
        curves: One per group of the cost, in its order.
        cost: Cost of a choice of widths.
        target: Share of the full cost to stay within.
        reference: What the target is a share of; None is the cost of all channels.

    Returns:
        Channels kept of each group, (groups,).

    Raises:
        TargetUnreachableError: Even the smallest widths cost more.
    """
    full = _Choice.widest(curves, cost).total() if reference is None else reference
    budget = budget_of(target, full)
    least = _least(curves, cost)
    if least > budget:
        raise unreachable(cost.counts, target, least, full, cost.total(np.ones(cost.n_groups, np.int64)))
    return _chosen(_with_streams(curves, cost, budget), cost, budget).kept


def _with_streams(curves: Sequence[ResponseCurve], cost: Cost, budget: int) -> Sequence[ResponseCurve]:
    """Let streams stay whole, where that is possible and no great loss for the others."""
    whole = [curve.whole if curve.stream else curve for curve in curves]
    if _least(whole, cost) > budget:
        return curves
    drifts = [foreseen_drift(each, _chosen(each, cost, budget).kept) for each in (whole, curves)]
    return whole if drifts[0] <= min(STREAMS_WORTH * drifts[1], drifts[1] + STREAMS_LOSS) else curves


def _chosen(curves: Sequence[ResponseCurve], cost: Cost, budget: int) -> _Choice:
    choice = _Choice.widest(curves, cost)
    _narrow(choice, budget)
    _widen(choice, budget)
    return choice


def _least(curves: Sequence[ResponseCurve], cost: Cost) -> int:
    """Return the cost of the smallest widths."""
    return cost.total(np.array([curve.widths[0] for curve in curves], np.int64))


@dataclass(slots=True, eq=False)
class _Choice:
    """Widths of all groups.

    Attributes:
        curves: The groups.
        cost: Cost of a choice.
        place: Position of each width among those that its group may have.
        kept: The widths, (groups,).
    """

    curves: Sequence[ResponseCurve]
    cost: Cost
    place: list[int]
    kept: Ints

    @classmethod
    def widest(cls, curves: Sequence[ResponseCurve], cost: Cost) -> _Choice:
        """Start with all channels."""
        position = [curve.widths.size - 1 for curve in curves]
        return cls(curves, cost, position, np.array([curve.widths[-1] for curve in curves], np.int64))

    def total(self) -> int:
        """Return what the choice costs."""
        return self.cost.total(self.kept)

    def move(self, group: int, step: int) -> None:
        """Give a group another width."""
        self.place[group] = step
        self.kept[group] = self.curves[group].widths[step]

    def total_at(self, group: int, step: int) -> int:
        """Return what the choice would cost with another width of one group."""
        before = self.place[group]
        self.move(group, step)
        total = self.total()
        self.move(group, before)
        return total

    def price(self, group: int) -> tuple[float, int]:
        """Return the least drift that narrowing a group adds per cost that it saves, and the place that it leads to.

        Args:
            group: A group that can be narrowed.
        """
        curve, at = self.curves[group], self.place[group]
        saved = self.cost.saved_at(self.kept, group, curve.widths[:at])
        added = curve.drift[:at] - curve.drift[at]
        price = np.where(saved > 0, added / np.maximum(saved, 1e-30), np.inf)
        # Many single channels would take long, and of equal prices the shortest move.
        shortest = min(at, -(-curve.widths.size // MOVES))
        aim = at - shortest - int(price[at - shortest :: -1].argmin())
        return float(price[aim]), aim


def _narrow(choice: _Choice, budget: int) -> None:
    """Make the cheapest move until the target is met.

    Other groups' moves only ever raise a price, for they lower what a move saves. So a price that was right once and is
    still the lowest when it is computed anew is the lowest of all.
    """
    now = choice.total()
    queue = [(choice.price(group)[0], group) for group, place in enumerate(choice.place) if place]
    heapq.heapify(queue)
    while now > budget:
        _, group = heapq.heappop(queue)
        price, aim = choice.price(group)
        if queue and (price, group) > queue[0]:
            heapq.heappush(queue, (price, group))
            continue
        choice.move(group, _last_that_fits(choice, group, aim, budget))
        now = choice.total()
        if choice.place[group]:
            heapq.heappush(queue, (price, group))


def _last_that_fits(choice: _Choice, group: int, aim: int, budget: int) -> int:
    """Stop a move as soon as the target is met."""
    low, high = aim, choice.place[group]
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if choice.total_at(group, middle) <= budget else (low, middle)
    return low


def _widen(choice: _Choice, budget: int) -> None:
    """Give back what is left of the budget: always the step that takes away the most drift.

    A step that does not fit never will, for what is left shrinks.
    """

    def gain(group: int) -> tuple[float, int]:
        drift, at = choice.curves[group].drift, choice.place[group]
        return float(drift[at + 1] - drift[at]), group

    queue = [gain(group) for group, curve in enumerate(choice.curves) if choice.place[group] < curve.widths.size - 1]
    heapq.heapify(queue)
    while queue:
        _, group = heapq.heappop(queue)
        wider = choice.place[group] + 1
        if choice.total_at(group, wider) > budget:
            continue
        choice.move(group, wider)
        if wider < choice.curves[group].widths.size - 1:
            heapq.heappush(queue, gain(group))
