"""The reach of one tensor: how far its channels can be from zero, and how that adds and multiplies."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from onnxpfp.arrays import AnyArray, Bools, Floats, Ids

__all__ = ["TensorReach", "largest_number", "of_filters", "of_stored", "reach_product", "scaled_reach", "total_reach"]


@dataclass(frozen=True, slots=True, eq=False)
class TensorReach:
    """The reach of one tensor.

    Attributes:
        ids: Its channels, ascending, (n,).
        values: Their reach, (n,).
        rest: Reach of the indices that are no channels.
        doubted: Whether more is possible, (n,).
        rest_doubted: The same of the rest.
        why: Where the doubt comes from.
        fixed: Whether these are plain numbers; else they are in units of R (`onnxpfp.linear.reach`). As R is 1 or more,
            plain numbers may be read as such.
        cap: A plain number that no index exceeds; infinite where none is known.
    """

    ids: Ids
    values: Floats
    rest: float
    doubted: Bools
    rest_doubted: bool
    why: str = ""
    fixed: bool = False
    cap: float = np.inf

    @classmethod
    def unknown(cls, ids: Ids, why: str) -> TensorReach:
        """Estimate that all indices reach 1, in doubt for a reason."""
        return cls(ids, np.ones(ids.size), 1.0, np.ones(ids.size, np.bool_), rest_doubted=True, why=why)

    @classmethod
    def within(cls, ids: Ids, limit: float) -> TensorReach:
        """Say that no index exceeds a plain number."""
        return cls.plain(ids, np.full(ids.size, limit), limit)

    @classmethod
    def plain(cls, ids: Ids, values: Floats, rest: float) -> TensorReach:
        """Give plain numbers, without a doubt."""
        cap = max(rest, float(values.max(initial=0.0)))
        return cls(ids, values, rest, np.zeros(ids.size, np.bool_), rest_doubted=False, fixed=True, cap=cap)

    @property
    def largest(self) -> float:
        """The largest reach of any index."""
        return max(self.rest, float(self.values.max(initial=0.0)))

    def at(self, ids: Ids) -> tuple[Floats, Bools]:
        """Return reach and doubt of channels; of those that it lacks, for it is stretched over them, the largest."""
        values = np.full(ids.size, self.largest)
        doubted = np.full(ids.size, self.rest_doubted or bool(self.doubted.any()))
        if self.ids.size:
            place = np.minimum(np.searchsorted(self.ids, ids), self.ids.size - 1)
            here = self.ids[place] == ids
            values[here], doubted[here] = self.values[place[here]], self.doubted[place[here]]
        return values, doubted

    def of_axis(self, axis: Ids) -> Floats:
        """Return the reach of every index of an axis, (C,); channel 0 stands for those that are no channels."""
        return np.where(axis == 0, self.rest, self.at(axis)[0])

    def plus(self, other: TensorReach) -> TensorReach:
        """Return it with the reach of another tensor added where both have a channel, and none of its doubts."""
        mine = np.isin(self.ids, other.ids)
        added = np.where(mine, other.at(self.ids)[0], 0.0)
        return replace(self, values=self.values + added)

    def times(self, factor: float) -> TensorReach:
        """Return it with everything multiplied by a plain number, 0 or more."""
        cap = self.cap * factor if factor else 0.0
        return replace(self, values=self.values * factor, rest=self.rest * factor, cap=cap)

    def known(self, radius: float, why: str) -> TensorReach:
        """Return what is in units of R in plain numbers.

        Args:
            radius: R.
            why: Why it may be larger; empty where it cannot.
        """
        values, rest = self.values * radius, self.rest * radius
        known = TensorReach.plain(self.ids, values, rest)
        return total_reach(self.ids, [known], why) if why else known

    def clipped(self, limit: float) -> TensorReach:
        """Return it with no index beyond a plain number."""
        if not self.fixed:
            return replace(self, cap=min(self.cap, limit))
        doubts = self.doubted.any() or self.rest_doubted
        values = np.where(self.doubted, limit, np.minimum(self.values, limit))
        rest = limit if self.rest_doubted else min(self.rest, limit)
        clipped = TensorReach.plain(self.ids, values, rest)
        return replace(clipped, cap=limit if doubts else clipped.cap)

    def through(self, largest: Callable[[Floats], Floats]) -> TensorReach:
        """Return the reach behind a function of numbers.

        Args:
            largest: The largest |f(x)| for |x| up to a limit; f has no slope above 1, so that |f(x)| <= |f(0)| + |x|.
        """
        if self.fixed:
            values, rest = largest(self.values), float(largest(np.array(self.rest)))
            return replace(self, values=values, rest=rest, cap=float(largest(np.array(self.cap))))
        start = float(largest(np.array(0.0)))
        cap = float(largest(np.array(self.cap)))
        return replace(self, values=self.values + start, rest=self.rest + start, cap=cap)

    def as_factor(self) -> TensorReach | None:
        """Return it in plain numbers, that another reach may be multiplied by; None where none are known."""
        if self.fixed:
            return self
        return None if np.isinf(self.cap) else TensorReach.within(self.ids, self.cap)


def of_filters(axis: Ids, squares: Floats, bias: Floats) -> TensorReach:
    """Return the norm of filter and bias of every channel; several filters of a channel are one row."""
    ids = np.unique(axis[axis != 0])
    norms, there = np.zeros(ids.size), axis != 0
    np.add.at(norms, np.searchsorted(ids, axis[there]), squares[there] + np.square(bias[there]))
    rest = np.sqrt(np.max(squares[~there] + np.square(bias[~there]), initial=0.0))
    return TensorReach(ids, np.sqrt(norms), float(rest), np.zeros(ids.size, np.bool_), rest_doubted=False)


def of_stored(value: AnyArray, axes: Sequence[Ids]) -> TensorReach:
    """Return the largest stored number of every channel."""
    if value.dtype.kind not in "fiu" or not value.size:
        return TensorReach.within(np.zeros(0, np.int64), 0.0)
    present = [axis for axis in axes if axis.any()]
    ids = np.unique(np.concatenate(present)) if present else np.zeros(0, np.int64)
    ids = ids[ids != 0]
    values, rest = np.zeros(ids.size), 0.0 if present else largest_number(value)
    for number, axis in enumerate(axes):
        if not axis.any():
            continue
        others = tuple(i for i in range(value.ndim) if i != number)
        peak = np.maximum(np.abs(value.max(others).astype(np.float64)), np.abs(value.min(others).astype(np.float64)))
        np.maximum.at(values, np.searchsorted(ids, axis[axis != 0]), peak[axis != 0])
        rest = max(rest, float(peak[axis == 0].max(initial=0.0)))
    return TensorReach.plain(ids, values, rest)


def largest_number(value: AnyArray) -> float:
    """Return the largest magnitude of any number."""
    return max(abs(float(value.max())), abs(float(value.min())))


def total_reach(ids: Ids, operands: Iterable[TensorReach], why: str = "", *, stretches: bool = True) -> TensorReach:
    """Add up the operands; where nothing stretches them, a channel that one of them lacks gets nothing from it."""
    values, doubted = np.zeros(ids.size), np.full(ids.size, bool(why))
    rest, rest_doubted, fixed, cap = 0.0, bool(why), True, np.inf if why else 0.0
    for operand in operands:
        mine, doubts = operand.at(ids)
        if not stretches:
            lacks = ~np.isin(ids, operand.ids)
            mine[lacks], doubts[lacks] = 0.0, False
        values, doubted = values + mine, doubted | doubts
        rest, rest_doubted = rest + operand.rest, rest_doubted or operand.rest_doubted
        fixed, cap = fixed and operand.fixed, cap + operand.cap
        why = why or operand.why
    return TensorReach(ids, values, rest, doubted, rest_doubted, why, fixed, cap)


def scaled_reach(ids: Ids, operand: TensorReach, factor: TensorReach) -> TensorReach:
    """Multiply channel by channel; the factor, at least, is in plain numbers."""
    (values, doubted), (factors, also) = operand.at(ids), factor.at(ids)
    rest_doubted = operand.rest_doubted or factor.rest_doubted
    rest, why = operand.rest * factor.rest, operand.why or factor.why
    cap = operand.cap * factor.cap if operand.cap and factor.cap else 0.0
    return TensorReach(ids, values * factors, rest, doubted | also, rest_doubted, why, operand.fixed, cap)


def reach_product(name: str, ids: Ids, one: TensorReach, two: TensorReach) -> TensorReach:
    """Multiply two operands of a node; where neither is known in plain numbers, there is a doubt."""
    for operand, other in ((one, two.as_factor()), (two, one.as_factor())):
        if other is not None:
            return scaled_reach(ids, operand, other)
    return total_reach(ids, [scaled_reach(ids, one, two)], f"Mul '{name}' multiplies two activations")
