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

from onnxpfp.arrays import Floats32, Ints
from onnxpfp.calibrate.sensitivity.exact import Candidates, Exact
from onnxpfp.calibrate.sensitivity.guard import ZeroGuard
from onnxpfp.calibrate.sensitivity.scratch import ScratchArrays
from onnxpfp.calibrate.sensitivity.settings import FULL, SLACK, SensitivitySettings
from onnxpfp.calibrate.sensitivity.sums import Scaled, SumField
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
_PROMISING = 0.9
"""Share of the block's best bound."""


@dataclass(slots=True, eq=False)
class Screening:
    """The running sensitivities of one linear op.

    Attributes:
        exact: Computes shares; it has the blocks.
        guard: Makes sums infinite that count as zero.
        magnitude: Largest norm of each block's weights in a row, (b,) float32.
        best: The largest share of each block so far, (b,) float32.
        tight: The second bound; None where convolution groups have unequal numbers of blocks.
        order: Indices of all blocks, one after the other; None where they are all indices as they stand.
        starts: Where each block begins there.
        spared: Nanoseconds that the second bound would have spared before it was loaded.
        rising: Whether many shares rose the last time.
    """

    exact: Exact
    guard: ZeroGuard
    magnitude: Floats32
    best: Floats32
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
        return cls(
            exact,
            ZeroGuard.of(op, weights, samples_last=family.samples_last),
            # No limit is infinite then; what has no weight stays without a share.
            np.where(norms.max(1) > 0, np.maximum(norms.max(1), FLOOR), 0).astype(np.float32),
            np.zeros(len(blocks.groups), np.float32),
            _tight_bound(exact, norms, plain=plain) if even else None,
            None if plain else blocks.indices,
            blocks.starts[:-1],
        )

    @property
    def channels(self) -> Ints:
        """Channel id of each block, (b,)."""
        return self.exact.blocks.channels

    @property
    def is_started(self) -> bool:
        """Whether a block has a share."""
        return bool(self.best.any())

    def see(self, seen: SumField, highest: float, scratch: ScratchArrays) -> None:
        """Count some samples in.

        Args:
            seen: The samples; sums that the guard fires at are overwritten.
            highest: The largest input.
            scratch: Memory for what is made of them.
        """
        with np.errstate(over="ignore", under="ignore", divide="ignore", invalid="ignore"):
            self.guard.apply(seen, highest)
            inverse = 1 / seen.least
            if inverse.shape[2] > 1:
                inverse = inverse[:, :, self.exact.blocks.groups]
            blocks = self._of_blocks(seen.magnitudes)
            size = np.multiply(blocks, inverse, out=scratch.take("size", blocks.shape))
            if not self.best.all():
                self._seed(seen, size, scratch)
            self._screen(seen, size, scratch)

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
        self.exact.raise_to(self.best, seen, candidates, scratch)
        # Which of the full ones is found first hangs on the order of the samples.
        self.best[self.best >= FULL] = 1


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
