"""The guard against sums that count as zero: PFP's shares are 0 there, and a share of nothing is no share.

A sum counts as zero where it is not above float32's epsilon times the largest of its sample and sign part.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np

from onnxpfp.arrays import Bools, Floats32, Ints
from onnxpfp.calibrate.sensitivity.settings import EPSILON
from onnxpfp.calibrate.sensitivity.sums import Scaled, SumField, least_into, summed
from onnxpfp.linear.ops import LinearOp

__all__ = ["ZeroGuard"]


_MANY = 8
"""Where there is a sum that counts as zero for so many positions, all are looked at."""
_FAINT = 8
"""Where more than one sum in so many is small, all are compared with what they must be above."""
_SIDE_BY_SIDE = 16
_ROUNDING = 1.01
"""More than rounding makes of a sum."""


@dataclass(frozen=True, slots=True, eq=False)
class ZeroGuard:
    """Makes the sums of one linear op infinite that count as zero.

    Attributes:
        norm: What rows were divided by, (g, 2, O/g), 0 where they are empty.
        reach: No sum, before it is divided, is larger than the largest input times this; both signs of weights, (2,).
        samples_last: Whether samples are the positions.
    """

    norm: Floats32
    reach: Floats32
    samples_last: bool

    @classmethod
    def of(cls, op: LinearOp, weights: Scaled, *, samples_last: bool) -> Self:
        """Prepare a linear op."""
        signed = weights.signed.reshape(op.group, -1, 2, *weights.taps.shape[1:])
        reach = summed(signed, np.ones(len(op.channels), np.float32)) * weights.norm
        return cls(weights.norm, (reach.max((0, 2)) * _ROUNDING).astype(np.float32), samples_last)

    def apply(self, seen: SumField, highest: float) -> None:
        """Make sums infinite that count as zero, and find the least of the others.

        Args:
            seen: The samples; their sums are overwritten.
            highest: The largest input.
        """
        if self.samples_last:
            for here in seen.z:
                np.copyto(here, np.inf, where=here <= self._limit(here))
            least_into(seen.z, seen.least)
            return
        # No limit is above these, so where all sums are, none needs to be looked at.
        loose = self._in_rows(np.float32(EPSILON * highest) * self.reach[:, None])
        low = seen.least <= loose.max(1)
        if low.any():
            self._make_infinite(seen, self._vanishing(seen.z, low, loose))

    def _vanishing(self, z: Floats32, low: Bools, loose: Floats32) -> Ints:
        """Return which sums (N, P, g, 2 O/g) count as zero, by flat indices.

        Args:
            z: The sums.
            low: Where the least of them is so small that it may, (N, P, g).
            loose: What no limit of a row is above, (g, 2 O/g).
        """
        near = _at_most(z, low, loose)
        if len(near) * _FAINT > z.size:
            limits = np.stack([self._limit(here) for here in z])
            return np.flatnonzero(z <= limits)
        # A sum of zero counts as zero whatever the limit is.
        sums, sample = z.reshape(-1)[near], near // (z.shape[1] * loose.size)
        keep = sums == 0
        numbers, which = np.unique(sample[~keep], return_inverse=True)
        if len(numbers):
            limits = np.stack([self._limit(z[number]).reshape(-1) for number in numbers.tolist()])
            keep[~keep] = sums[~keep] <= limits[which, near[~keep] % loose.size]
        return near[keep]

    def _make_infinite(self, seen: SumField, which: Ints) -> None:
        """Make sums infinite, given by flat indices, and find the least of the others anew."""
        seen.z.reshape(-1)[which] = np.inf
        if len(which) * _MANY > seen.least.size:
            least_into(seen.z, seen.least)
        else:
            places = which // seen.z.shape[3]
            seen.least.reshape(-1)[places] = seen.z.reshape(-1, seen.z.shape[3])[places].min(1)

    def _in_rows(self, sums: Floats32) -> Floats32:
        """Divide sums by what rows are divided by; (..., g, 2 O/g), 0 where a row is empty."""
        inverse = np.divide(1, self.norm, out=np.zeros_like(self.norm), where=self.norm > 0)
        return (sums * inverse).reshape(*sums.shape[:-3], len(self.norm), -1)

    def _limit(self, sums: Floats32) -> Floats32:
        """Return what the sums (P, g, 2 O/g) of a sample must be above, (P or 1, g, 2 O/g)."""
        highest = sums if self.samples_last else _largest(sums)[None]
        highest = (highest.reshape(len(highest), *self.norm.shape) * self.norm).max((1, 3), keepdims=True)
        return self._in_rows(np.float32(EPSILON) * highest)


def _at_most(z: Floats32, low: Bools, loose: Floats32) -> Ints:
    """Return which sums are at most what their row says, by flat indices; `low` has all places that have such sums."""
    rows = z.shape[3]
    if np.count_nonzero(low) * _MANY > low.size:
        # One number is compared faster than one of every row.
        below = z <= loose.max()
        if np.count_nonzero(below) * _FAINT > below.size:
            return np.flatnonzero(np.less_equal(z, loose, out=below))
        near = np.flatnonzero(below)
        return near[z.reshape(-1)[near] <= loose.reshape(-1)[near % loose.size]]
    places = np.flatnonzero(low)
    where, row = np.nonzero(z.reshape(-1, rows)[places] <= loose[places % len(loose)])
    return places[where] * rows + row


def _largest(sums: Floats32) -> Floats32:
    """Take the maximum over the first axis, of several places side by side: that is what vector units like."""
    whole = len(sums) // _SIDE_BY_SIDE * _SIDE_BY_SIDE
    folded = sums[:whole].reshape(-1, _SIDE_BY_SIDE, *sums.shape[1:]).max(0, initial=0)
    return np.maximum(folded.max(0), sums[whole:].max(0, initial=0))
