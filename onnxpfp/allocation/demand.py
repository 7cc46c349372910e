"""Demand curves: the width of each group as a function of one scalar t.

Two rules turn t into widths. Both are monotone in t, and t stands for one error of all groups.

  bound (for the deterministic selection): the smallest width whose bound fits, summed over the
    group's consumers, since the error enters the network through each of them:
        consumers * sum of the dropped s <= 1 / t
  draws (for the selections that sample; PFP, Liebenwein et al., ICLR 2020, in the form of the authors'
    code): draws in proportion to S, and as many channels as they are expected to hit,
        m(t) = max(1, ceil(t * S * weight * consumers))
        n(t) = ceil( sum_j 1 - (1 - p_j)^m )
    The authors prune each consumer by itself, and a filter goes when no consumer kept it: what one
    group stands for has the draws of all its consumers.

A *step* widens a group to its next allowed width. Its position is the t from which on the rule asks
for it. Channels that no t ever asks for (score 0) come after all of these, evenly over the groups, at
positions (infinity, width / n).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from onnxpfp.arrays import Bools, Floats, Ints
from onnxpfp.score.pfp import draws_to_reach, log_miss, probabilities

__all__ = ["Curves", "Demand", "DemandRule", "curves_of"]


DemandRule = Literal["bound", "draws"]

_SLACK = 1e-9
"""Taken off before rounding up, so that rounding errors do not ask for one more channel."""

_NEGLIGIBLE = 1e-100
"""Groups with fewer draws per t than this count as all zero, so that every finite t is a float."""


@dataclass(frozen=True, slots=True, eq=False)
class Demand:
    """The demand of one group: how many channels it keeps at a bound.

    Attributes:
        scores: One score per channel, (n,) float64, finite and not negative, n >= 1.
        weight: Factor of the draws: ln(8 (P + 1) k / delta) as in the authors' code, where P is
            patches and k kernel size, or 1.
        minimum: Fewest channels that must stay.
        step: Widths are multiples of it, or the full width.
        consumers: How many consumers read the group.
    """

    scores: Floats
    weight: float = 1.0
    minimum: int = 1
    step: int = 1
    consumers: int = 1

    def __post_init__(self) -> None:
        if self.scores.ndim != 1 or self.scores.shape[0] == 0:
            raise ValueError(f"scores must be a vector of at least one, got {self.scores.shape}")
        if min(self.minimum, self.step, self.consumers) < 1 or not 0.0 < self.weight < math.inf:
            raise ValueError("minimum, step and consumers must be at least 1, weight positive and finite")
        if not math.isfinite(self.rate):
            raise ValueError("the sum of the scores must be finite")

    @property
    def rate(self) -> float:
        """Draws per unit of t: S * weight * consumers; 0 if the scores are too small to divide by."""
        rate = self.weight * self.consumers * float(self.scores.sum(dtype=np.float64))
        return 0.0 if rate < _NEGLIGIBLE else rate


class Curves(Protocol):
    """The widths that all groups ask for, vectorised over the groups."""

    @property
    def step(self) -> Ints:
        """Step of each group, (G,)."""
        ...

    @property
    def first(self) -> Ints:
        """Smallest width of each group, (G,)."""
        ...

    @property
    def full(self) -> Ints:
        """All channels of each group, (G,)."""
        ...

    def at(self, t: float, dead: float = 0.0) -> Ints:
        """Return the allowed width that t asks for, but at least next to dead * n, (G,) int64."""
        ...

    def next_width(self, group: int, width: int) -> int:
        """Return the next allowed width above a width, which must not be the full one."""
        ...

    def position(self, group: int, width: int) -> tuple[float, float]:
        """Return from which (t, dead) on `at` asks for the next width above a width."""
        ...

    def begin(self, moving: Bools) -> float:
        """Return a t at which no group that is moving has left its smallest width."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class _Widths:
    """The widths that are allowed: multiples of the step from the minimum on, and the full width.

    Attributes:
        step: Step, (G,).
        first: Smallest width, (G,).
        last: Largest multiple of the step, or the full width if there is none, (G,).
        full: All channels, (G,).
    """

    step: Ints
    first: Ints
    last: Ints
    full: Ints

    def next_width(self, group: int, width: int) -> int:
        """Return the next allowed width above a width, which must not be the full one."""
        wider = width + int(self.step[group])
        return wider if wider <= self.last[group] else int(self.full[group])


@dataclass(frozen=True, slots=True, eq=False)
class _BoundCurves(_Widths):
    """The rule "bound".

    Attributes:
        dropped: Per group, consumers * sum of the k smallest scores for k = 0 ... n.
    """

    dropped: tuple[Floats, ...]

    def at(self, t: float, dead: float = 0.0) -> Ints:
        """Return the smallest allowed width whose bound is at most 1 / t, (G,) int64."""
        limit = 0.0 if math.isinf(t) else 1.0 / t
        droppable = np.array([np.searchsorted(d, limit, "right") - 1 for d in self.dropped], np.int64)
        widths = np.maximum(self.full - droppable, np.floor(dead * self.full + _SLACK).astype(np.int64))
        up = np.maximum(-(-widths // self.step) * self.step, self.first)
        return np.where(up > self.last, self.full, up)

    def position(self, group: int, width: int) -> tuple[float, float]:
        """Return from which (t, dead) on `at` asks for the next width above a width."""
        size = int(self.full[group])
        error = float(self.dropped[group][size - width])
        return (1.0 / error, 0.0) if error > _NEGLIGIBLE else (math.inf, (width + 1) / size)

    def begin(self, moving: Bools) -> float:
        """Return a t at which no group that is moving has left its smallest width."""
        largest = max(float(self.dropped[g][-1]) for g in np.flatnonzero(moving))
        return 0.5 / max(largest, _NEGLIGIBLE)


@dataclass(frozen=True, slots=True, eq=False)
class _DrawCurves(_Widths):
    """The rule "draws".

    Attributes:
        miss: ln(1 - p_j) of all channels that can be drawn, group after group.
        start: Where each group begins in `miss`, (G,).
        alive: Channels that can be drawn, (G,).
        rate: Draws per unit of t, (G,); 0 if all scores are.
    """

    miss: Floats
    start: Ints
    alive: Ints
    rate: Floats

    def at(self, t: float, dead: float = 0.0) -> Ints:
        """Return the allowed width next to n(t), but at least to dead * n, (G,) int64."""
        if math.isinf(t):
            widths = np.where(self.rate > 0.0, self.alive, 1)
        else:
            draws = np.maximum(1.0, np.ceil(t * self.rate * (1.0 - 1e-12)))
            hit = -np.expm1(np.repeat(draws, self.alive) * self.miss)
            widths = np.ceil(np.add.reduceat(hit, self.start) - _SLACK).astype(np.int64)
        widths = np.maximum(widths, np.floor(dead * self.full + _SLACK).astype(np.int64))
        near = (2 * widths + self.step) // (2 * self.step) * self.step
        near = np.clip(near, self.first, self.last)
        return np.where(2 * widths >= self.last + self.full, self.full, near)

    def position(self, group: int, width: int) -> tuple[float, float]:
        """Return from which (t, dead) on `at` asks for the next width above a width."""
        target = (width + self.next_width(group, width) + 1) // 2  # nearest, halves go up
        rate, alive = float(self.rate[group]), int(self.alive[group])
        if target > (alive if rate > 0.0 else 1):
            return math.inf, target / int(self.full[group])
        begin = int(self.start[group])
        draws = draws_to_reach(self.miss[begin : begin + alive], target)
        return (draws - 1) / rate if draws > 1 else 0.0, 0.0

    def begin(self, moving: Bools) -> float:
        """Return a t at which no group that is moving has left its smallest width."""
        # Up to t = 1 / rate every group has one draw.
        return 1.0 / float(self.rate[moving].max())


def curves_of(demands: Sequence[Demand], rule: DemandRule) -> Curves:
    """Put the demands of all groups together.

    Args:
        demands: One per group.
        rule: How t becomes a width.
    """
    full = np.array([d.scores.shape[0] for d in demands], dtype=np.int64)
    step = np.array([d.step for d in demands], dtype=np.int64)
    minimum = np.array([d.minimum for d in demands], dtype=np.int64)
    first = -(-minimum // step) * step
    last = np.where(first > full, full, full // step * step)
    first = np.where(first > full, full, first)
    if rule == "bound":
        dropped = tuple(
            d.consumers * np.concatenate([[0.0], np.cumsum(np.sort(d.scores.astype(np.float64)))]) for d in demands
        )
        return _BoundCurves(step, first, last, full, dropped)
    chances = [probabilities(d.scores) for d in demands]
    drawable = [p[p > 0.0] for p in chances]
    alive = np.array([p.shape[0] for p in drawable], dtype=np.int64)
    return _DrawCurves(
        step,
        first,
        last,
        full,
        miss=log_miss(np.concatenate(drawable)),
        start=np.cumsum(alive) - alive,
        alive=alive,
        rate=np.array([d.rate for d in demands], dtype=np.float64),
    )
