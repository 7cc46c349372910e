"""Ranks: what every layer loses at which cost, and the ranks that lose least for a target. Pure numpy.

The loss of a layer is -log(share of its outputs' variance that is kept), so that the sum over layers is the logarithm
of the product that Zhang et al. (TPAMI 2016, on rank selection) maximise. Where little is lost it is the relative
error; a layer that would lose all that varies in its outputs costs more than any other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from onnxpfp.arrays import Floats

__all__ = ["Choice", "LayerCurves", "RankCurve", "least_macs", "rank_for_energy", "ranks_for_macs"]

ROUNDING = 1e-12
"""Sums of squares are off by so much."""


@dataclass(frozen=True, slots=True, eq=False)
class RankCurve:
    """What one scheme loses of a layer at every rank.

    Attributes:
        cut: How many of the kernel's axes the first op has (`onnxpfp.low_rank.factor`).
        macs: Multiply-adds that one rank takes.
        errors: Share of the outputs' variance, or of the weights' energy, that is lost at ranks 0 to R, (R + 1,).
        step: Only multiples of it are taken.
    """

    cut: int
    macs: int
    errors: Floats
    step: int = 1

    @property
    def ranks(self) -> range:
        """The ranks that may be taken."""
        return range(self.step, len(self.errors), self.step)


@dataclass(frozen=True, slots=True)
class Choice:
    """A scheme and a rank.

    Attributes:
        cut: As in `RankCurve`.
        rank: At least 1.
    """

    cut: int
    rank: int


@dataclass(frozen=True, slots=True, eq=False)
class LayerCurves:
    """What can become of a layer.

    Attributes:
        macs: Multiply-adds that it takes whole.
        curves: One for each scheme; none where no rank takes fewer.
    """

    macs: int
    curves: tuple[RankCurve, ...]


@dataclass(frozen=True, slots=True)
class _Point:
    """A layer at a choice, or whole."""

    macs: int
    loss: float
    choice: Choice | None


def rank_for_energy(layer: LayerCurves, share: float) -> Choice | None:
    """Return the cheapest choice that keeps a share; None where none takes fewer multiply-adds.

    Args:
        layer: The layer.
        share: In (0, 1].
    """
    cheapest, chosen = layer.macs, None
    for curve in layer.curves:
        rank = next((rank for rank in curve.ranks if 1.0 - curve.errors[rank] >= share - ROUNDING), None)
        if rank is not None and rank * curve.macs < cheapest:
            cheapest, chosen = rank * curve.macs, Choice(curve.cut, rank)
    return chosen


def least_macs(layer: LayerCurves) -> int:
    """Return the multiply-adds of a layer at its cheapest choice."""
    return min((point.macs for point in _points(layer)), default=layer.macs)


def ranks_for_macs(layers: Sequence[LayerCurves], budget: int) -> list[Choice | None] | None:
    """Choose what loses least in the sum over layers.

    Every layer goes down the lower convex hull of its choices, the step that adds least loss for what it saves first.
    What the budget has left then goes to the choices that lose least for what they take.

    Args:
        layers: The layers.
        budget: Multiply-adds that all of them may take together.

    Returns:
        A choice by layer, None where it stays; None where no choice is cheap enough.
    """
    hulls = [_hull(list(_points(layer))) for layer in layers]
    steps = [
        (_slope(before, after), number, place)
        for number, hull in enumerate(hulls)
        for place, (before, after) in enumerate(pairwise(hull), 1)
    ]
    chosen = [hull[0] for hull in hulls]
    total = sum(point.macs for point in chosen)
    for _, number, place in sorted(steps):
        if total <= budget:
            break
        total += hulls[number][place].macs - chosen[number].macs
        chosen[number] = hulls[number][place]
    if total > budget:
        return None
    _spend([list(_points(layer)) for layer in layers], chosen, budget - total)
    return [point.choice for point in chosen]


def _spend(points: Sequence[Sequence[_Point]], chosen: list[_Point], left: int) -> None:
    """Spend what is left, in place: the choice that gains most for what it takes first, as long as one fits."""
    while True:
        gains = [
            (_slope(point, now), number, point)
            for number, (of_layer, now) in enumerate(zip(points, chosen, strict=True))
            for point in of_layer
            if point.loss < now.loss and now.macs < point.macs <= now.macs + left
        ]
        if not gains:
            return
        _, number, best = max(gains, key=lambda gain: gain[0])
        left -= best.macs - chosen[number].macs
        chosen[number] = best


def _points(layer: LayerCurves) -> Iterator[_Point]:
    """Yield a layer whole, and at every choice that takes fewer multiply-adds."""
    yield _Point(layer.macs, 0.0, None)
    for curve in layer.curves:
        for rank in curve.ranks:
            if rank * curve.macs < layer.macs:
                kept = max(1.0 - float(curve.errors[rank]), np.finfo(np.float64).tiny)
                yield _Point(rank * curve.macs, -float(np.log(kept)), Choice(curve.cut, rank))


def _hull(points: Sequence[_Point]) -> list[_Point]:
    """Return the lower convex hull, the most expensive point first: that of the whole layer."""
    hull: list[_Point] = []
    for point in sorted(points, key=lambda point: (-point.macs, point.loss)):
        if hull and point.macs == hull[-1].macs:
            continue
        while len(hull) > 1 and _slope(hull[-2], hull[-1]) >= _slope(hull[-1], point):
            hull.pop()
        hull.append(point)
    return hull


def _slope(before: _Point, after: _Point) -> float:
    """Return the loss that is added per multiply-add that is saved."""
    return (after.loss - before.loss) / (before.macs - after.macs)
