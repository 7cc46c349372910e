"""Widths by what they do to the network's output, as it was measured group by group.

Every group has a curve: the drift of the output when it alone is narrowed. Starting with all channels, the group whose
narrowing adds the least drift per cost that it saves is narrowed, until the target is met; what is left of the budget
is given back where it takes away the most drift. Drifts of several groups are taken to add up.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnxpfp.budget.cost import CostModel
from onnxpfp.budget.widths import unreachable, widths_of

__all__ = ["Curve", "narrow"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Curve:
    """Drift of the output over the width of one group.

    Attributes:
        widths: All widths that the group may have, ascending; the last is the full one.
        drift: Drift at each, falling to 0 at full width.
    """

    widths: Ints
    drift: Floats

    @classmethod
    def of(cls, size: int, step: int, minimum: int, measured: Ints, drift: Sequence[float]) -> Curve:
        """Make a curve of measured points, monotone, and straight between them.

        Args:
            size: Channels of the group.
            step: Its widths are multiples of this.
            minimum: Fewest channels that stay.
            measured: Widths that were measured, ascending.
            drift: What was measured there, not negative.
        """
        known = np.append(np.asarray(drift, np.float64), 0.0)
        falling = np.maximum.accumulate(known[::-1])[::-1]
        allowed = widths_of(size, step, minimum)
        return cls(allowed, np.interp(allowed, np.append(measured, size), falling))


def narrow(curves: Sequence[Curve], cost: CostModel, target: float, reference: int | None = None) -> Ints:
    """Choose the widths of all groups.

    Args:
        curves: One per group of the cost model, in its order.
        cost: Cost of a choice of widths.
        target: Share of the full cost to stay within.
        reference: What the target is a share of; None is the cost of all channels.

    Returns:
        Channels kept of each group, (groups,).

    Raises:
        TargetUnreachableError: Even the smallest widths cost more.
    """
    place = np.array([curve.widths.size - 1 for curve in curves])
    full = cost.total(_kept(curves, place)) if reference is None else reference
    budget = math.floor(target * full * (1.0 + 1e-12))
    least = cost.total(_kept(curves, np.zeros_like(place)))
    if least > budget:
        raise unreachable(target, least, full)
    while (now := cost.total(_kept(curves, place))) > budget:
        group, aim = _cheapest(curves, cost, place, now)
        place[group] = _last_that_fits(curves, cost, place, group, aim, budget)
    _widen(curves, cost, place, budget)
    return _kept(curves, place)


def _kept(curves: Sequence[Curve], place: Ints) -> Ints:
    return np.array([curve.widths[at] for curve, at in zip(curves, place.tolist(), strict=True)], np.int64)


def _cheapest(curves: Sequence[Curve], cost: CostModel, place: Ints, now: int) -> tuple[int, int]:
    """Return the group with the least added drift per saved cost, and the place in its curve where that is reached."""
    best, found = math.inf, (-1, -1)
    for group, curve in enumerate(curves):
        at = int(place[group])
        if not at:
            continue
        lower = place.copy()
        lower[group] = at - 1
        gone = curve.widths[at] - curve.widths[:at]
        # Costs are products of widths, so nearly straight in one of them; the exact ones decide when to stop.
        saved = (now - cost.total(_kept(curves, lower))) / gone[-1] * gone
        added = curve.drift[:at] - curve.drift[at]
        price = np.where(saved > 0, added / np.maximum(saved, 1e-30), np.inf)
        # Of equal prices the shortest move.
        aim = at - 1 - int(price[::-1].argmin())
        if price[aim] < best or found[0] < 0:
            best, found = float(price[aim]), (group, aim)
    return found


def _last_that_fits(curves: Sequence[Curve], cost: CostModel, place: Ints, group: int, aim: int, budget: int) -> int:
    """Stop a move as soon as the target is met."""
    trial = place.copy()
    for at in range(int(place[group]) - 1, aim - 1, -1):
        trial[group] = at
        if cost.total(_kept(curves, trial)) <= budget:
            return at
    return aim


def _widen(curves: Sequence[Curve], cost: CostModel, place: Ints, budget: int) -> None:
    """Give back what is left of the budget, in place: always the step that takes away the most drift."""
    while True:
        gains: list[tuple[float, int]] = []
        for group, curve in enumerate(curves):
            at = int(place[group])
            if at == curve.widths.size - 1:
                continue
            trial = place.copy()
            trial[group] = at + 1
            if cost.total(_kept(curves, trial)) <= budget:
                gains.append((float(curve.drift[at] - curve.drift[at + 1]), -group))
        if not gains:
            return
        place[-max(gains)[1]] += 1
