"""Exact sensitivities of one linear op from its sums: bounds first, exact shares only where a bound beats the maximum.

A sensitivity is a maximum over millions of (sample, position) pairs, and nearly none of them matters once a few are
known. With rows scaled to sums of about one, m[p] = min over rows of z, and A[j, p] the magnitude of block j's input:

    coarse   share[j, p] <= A[j, p] max_i |W_ij| / m[p]                                one product and one comparison
    tight    share[j, p] <= A[j, p] / m[p] (sum_i |W_ij|^16 (m[p] / z[i, p])^16)^(1/16)     one matrix product

The second holds as a norm of order 16 (or 8) is above the maximum. Both are compared in that power, where nothing can
underflow unseen: the largest term of the sum over rows is that of m[p] itself, and weights have a floor.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from onnxpfp.arrays import Bools, Floats32, Ints
from onnxpfp.calibrate.sensitivity.exact import Candidates, Exact
from onnxpfp.calibrate.sensitivity.scratch import ScratchArrays
from onnxpfp.calibrate.sensitivity.settings import EPSILON, FULL, SLACK, SensitivitySettings
from onnxpfp.calibrate.sensitivity.sums import Scaled, SumField, least_into, summed
from onnxpfp.calibrate.sensitivity.tight_bound import FLOOR, TightBound
from onnxpfp.linear.families import OpFamily
from onnxpfp.linear.ops import LinearOp

__all__ = ["Screening"]


_EXACT_COST, _EXACT_COST_PER_ENTRY = 0.6, 0.05
"""Nanoseconds for a row of one candidate, and for every product of its sum."""
_TIGHT_COST, _TIGHT_COST_PER_BLOCK = 0.6, 0.014
"""Nanoseconds for a row of one position, and for that times a block."""
_LOADING_COST = 20
"""Nanoseconds for a row of one block, once."""
_FEW = 16
"""Candidates of a block that are computed at once rather than in two steps."""
_RISING = 8
"""Where fewer than one largest share in so many rose, a first step would settle little."""
_MANY = 8
"""Where there is a sum that counts as zero for so many positions, all are looked at."""
_FAINT = 8
"""Where more than one sum in so many is small, all are compared with what they must be above."""
_SIDE_BY_SIDE = 16
_ROUNDING = 1.01
"""More than rounding makes of a sum."""
_PROMISING = 0.9
"""Share of the block's best bound."""


@dataclass(slots=True, eq=False)
class Screening:
    """The running sensitivities of one linear op.

    Attributes:
        exact: Computes shares; it has the blocks.
        norm: What rows were divided by, (g, 2, O/g), 0 where they are empty.
        reach: No sum, before it is divided, is larger than the largest input times this; both signs of weights, (2,).
        magnitude: Largest norm of each block's weights in a row, (b,) float32.
        best: The largest share of each block so far, (b,) float32.
        samples_last: Whether samples are the positions.
        tight: The second bound; None where convolution groups have unequal numbers of blocks.
        order: Indices of all blocks, one after the other; None where they are all indices as they stand.
        starts: Where each block begins there.
        spared: Nanoseconds that the second bound would have spared before it was loaded.
        rising: Whether many shares rose the last time.
    """

    exact: Exact
    norm: Floats32
    reach: Floats32
    magnitude: Floats32
    best: Floats32
    samples_last: bool
    tight: TightBound | None
    order: Ints | None
    starts: Ints
    spared: float = 0.0
    rising: bool = True

    @classmethod
    def of(cls, op: LinearOp, weights: Scaled, family: OpFamily, plan: SensitivitySettings) -> Screening:
        """Prepare the screening of one linear op."""
        blocks = op.block_table(single=plan.kernel == "max")
        exact = Exact.of(op, blocks, weights, plan.kernel, flat=family.flat)
        plain = len(blocks.groups) == len(op.channels)
        norms = _block_norms(weights.signed, None if plain else blocks.indices, blocks.starts[:-1], plan)
        even = len(set(np.bincount(blocks.groups, minlength=op.group).tolist())) == 1
        signed = weights.signed.reshape(op.group, -1, 2, *weights.taps.shape[1:])
        reach = summed(signed, np.ones(len(op.channels), np.float32)) * weights.norm
        return cls(
            exact,
            weights.norm,
            (reach.max((0, 2)) * _ROUNDING).astype(np.float32),
            # No limit is infinite then; what has no weight stays without a share.
            np.where(norms.max(1) > 0, np.maximum(norms.max(1), FLOOR), 0).astype(np.float32),
            np.zeros(len(blocks.groups), np.float32),
            family.samples_last,
            _tight_bound(exact, norms, plain=plain) if even else None,
            None if plain else blocks.indices,
            blocks.starts[:-1],
        )

    def see(self, seen: SumField, highest: float, scratch: ScratchArrays) -> None:
        """Count some samples in.

        Args:
            seen: The samples; sums that the guard fires at are overwritten.
            highest: The largest input.
            scratch: Memory for what is made of them.
        """
        with np.errstate(over="ignore", under="ignore", divide="ignore", invalid="ignore"):
            self._guard(seen, highest)
            inverse = 1 / seen.least
            if inverse.shape[2] > 1:
                inverse = inverse[:, :, self.exact.blocks.groups]
            blocks = self._of_blocks(seen.magnitudes)
            size = np.multiply(blocks, inverse, out=scratch.take("size", blocks.shape))
            if not self.best.all():
                self._seed(seen, size, scratch)
            self._screen(seen, size, scratch)

    def _guard(self, seen: SumField, highest: float) -> None:
        """Make sums infinite that count as zero, and find the least of the others."""
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

    def _of_blocks(self, magnitudes: Floats32) -> Floats32:
        """Return the magnitude of every block's input, (N, P, b)."""
        if self.order is None:
            return magnitudes
        picked = magnitudes[:, :, self.order]
        if len(self.order) == len(self.starts):
            return picked
        return np.sqrt(np.add.reduceat(np.square(picked), self.starts, axis=2))

    def _seed(self, seen: SumField, size: Floats32, scratch: ScratchArrays) -> None:
        """Give blocks without a share one: that of their largest bound."""
        new = np.flatnonzero(self.best == 0)
        place = size.reshape(-1, size.shape[2])[:, new].argmax(0)
        self._raise(seen, Candidates(place, new, np.ones(len(new), np.float32), 1), scratch)

    def _screen(self, seen: SumField, size: Floats32, scratch: ScratchArrays) -> None:
        live = (self.best < FULL) & (self.magnitude > 0)
        limit = np.where(live, self.best / self.magnitude * np.float32(1 - SLACK), np.inf).astype(np.float32)
        over = size > limit
        count = int(np.count_nonzero(over))
        if not count:
            return
        order, excess = 1, size
        if self.tight is not None and self._pays(seen.z, count):
            excess = self.tight.excess(np.divide(size, limit, out=size), seen.z, seen.least, scratch)
            order = self.tight.order
            over &= excess > np.float32((1 - SLACK) ** order)
        flat = np.flatnonzero(over)
        place, block = np.divmod(flat, size.shape[2])
        picked = excess.reshape(-1)[flat]
        if order == 1:
            picked = picked / limit[block]
        self._settle(seen, Candidates(place, block, picked, order).sorted(), scratch)

    def _pays(self, z: Floats32, count: int) -> bool:
        """Whether the tight bound takes less time than what it spares of `count` exact shares.

        It is loaded once it would have spared what that takes.
        """
        assert self.tight is not None
        blocks = len(self.best) / z.shape[2]
        exact = count * z.shape[3] * (_EXACT_COST + _EXACT_COST_PER_ENTRY * self.exact.entries)
        saved = exact - z.size * (_TIGHT_COST + _TIGHT_COST_PER_BLOCK * blocks)
        if not self.tight.is_loaded:
            self.spared += max(saved, 0.0)
            return self.spared > math.prod(self.tight.shape) * _LOADING_COST
        return saved > 0

    def _settle(self, seen: SumField, candidates: Candidates, scratch: ScratchArrays) -> None:
        """Compute candidates, the most promising of each block first, for these may settle the others."""
        before = self.best.copy()
        if len(candidates) > _FEW * len(before) and self.rising:
            first = candidates.promising(_PROMISING)
            self._raise(seen, candidates.take(first), scratch)
            gain = np.where(self.best < FULL, (self.best / before).astype(np.float64) ** candidates.order, np.inf)
            candidates = candidates.take(
                ~first & (candidates.excess >= (gain * (1 - SLACK) ** candidates.order)[candidates.block])
            )
        self._raise(seen, candidates, scratch)
        self.rising = bool(np.count_nonzero(self.best > before) * _RISING > len(before))

    def _raise(self, seen: SumField, candidates: Candidates, scratch: ScratchArrays) -> None:
        np.maximum(self.best, self.exact.largest(seen, candidates, scratch), out=self.best)


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


def _tight_bound(exact: Exact, norms: Floats32, *, plain: bool) -> TightBound:
    """Return the second bound, given the norms (b, 2 O/g); where they are single weights, these are not kept twice."""
    shape = exact.op.group, len(norms) // exact.op.group, norms.shape[1]
    if plain and exact.entries == 1:
        rows = exact.rows[:, 0]
        return TightBound(shape, lambda: np.concatenate([np.maximum(rows, 0), np.maximum(-rows, 0)], 1).reshape(shape))
    return TightBound(shape, lambda: norms.reshape(shape))


def _block_norms(signed: Floats32, order: Ints | None, starts: Ints, plan: SensitivitySettings) -> Floats32:
    """Return the norm of each block's weights in every row of its group, (b, 2 O/g): the largest for kernel="max".

    Args:
        signed: W+ and W- side by side, (C, 2 O/g, k).
        order: Indices of all blocks; None where they are all indices as they stand.
        starts: Where each block begins there.
        plan: Which kernel form.
    """
    single = order is None or len(order) == len(starts)
    picked = signed if order is None else signed[order]
    if single and signed.shape[2] == 1:
        return picked[:, :, 0]
    if plan.kernel == "max":
        return picked.max(2)
    # In float64, where squares of small weights do not vanish.
    squares = np.einsum("cok,cok->co", picked, picked, dtype=np.float64)
    whole = squares if single else np.add.reduceat(squares, starts, axis=0)
    return np.sqrt(whole).astype(np.float32)
