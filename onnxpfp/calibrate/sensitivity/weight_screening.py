"""Exact sensitivities of single weights (SiPP): bounds of whole samples first, exact shares only where these may rise.

The share of weight (c, i, q) at position p is |V_ciq| u_cqp / z_ip with the sum z of its own sign (SiPP, Baykal et al.,
arXiv 1910.05422, algorithms as in the authors' code), so its largest one is |V_ciq| M_ciq with

    M_ciq = max over samples, signs of inputs and positions p of  u_cqp R_ip        R = 1 / z, 0 where z counts as 0

That is a product of matrices with max in the place of the sum. Of the positions of some samples together,

    max over p of u_cqp R_ip  <=  (sum over p of (u_cqp R_ip)^32)^(1/32)

which a plain product of matrices computes for all weights at once. Most weights have had a larger share in samples
before; only the others are computed. Powers of float64 hold factors that differ by up to 1e9.

With positions="mean" the mean over the positions of a sample takes the place of their maximum, as in the authors' code
for the deterministic choice; that is a plain product of matrices as it is.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onnxpfp.arrays import AnyFloats, Bools, Floats, Floats32, Ints, chunks
from onnxpfp.calibrate.sensitivity.guard import ZeroGuard
from onnxpfp.calibrate.sensitivity.scratch import ScratchArrays
from onnxpfp.calibrate.sensitivity.settings import FULL, Positions
from onnxpfp.calibrate.sensitivity.sums import Scaled, SumField
from onnxpfp.calibrate.sensitivity.windows import WindowReader
from onnxpfp.linear.families import OpFamily
from onnxpfp.linear.ops import LinearOp

__all__ = ["WeightScreening"]


_DOUBLINGS = 5
"""Squarings that make the power 32."""
_HELD = 1e-9
"""Factors below it, as a share of the largest, may vanish in that power."""
_SLACK = 1e-6
"""What rounding may take from a bound to that power."""
_PIECE = 1 << 18
"""Numbers of one intermediate: what a core's cache holds."""
_BYTES = 8 * 4
"""What comparing the bound of one weight takes, both signs of it included."""


@dataclass(slots=True, eq=False)
class WeightScreening:
    """The running sensitivities of the weights of one linear op, by convolution group g, entry e = (c, q) and output i.

    Attributes:
        windows: Looks up what the op reads.
        guard: Makes sums infinite that count as zero.
        sizes: Magnitudes of the scaled weights, (g, E, O/g) float32.
        positive: Whether each weight is above zero, likewise.
        peaks: M so far, likewise.
        averages: Whether the mean over positions takes the place of the maximum.
    """

    windows: WindowReader
    guard: ZeroGuard
    sizes: Floats32
    positive: Bools
    peaks: Floats32
    averages: bool

    @classmethod
    def of(cls, op: LinearOp, weights: Scaled, family: OpFamily, positions: Positions) -> WeightScreening:
        """Prepare the screening of one linear op.

        With positions="mean" the rows of a matrix product are samples of their own, as in the authors' code.
        """
        grouped = weights.taps.reshape(op.group, -1, *weights.taps.shape[1:]).swapaxes(2, 3)
        entries = grouped.reshape(op.group, -1, grouped.shape[3])
        return cls(
            WindowReader(op, family.flat),
            ZeroGuard.of(op, weights, samples_last=family.samples_last),
            np.abs(entries),
            entries > 0,
            np.zeros(entries.shape, np.float32),
            positions == "mean" and op.kind != "matmul" and not family.samples_last,
        )

    @property
    def channels(self) -> Ints:
        """Channel id of each index that has one, (b,)."""
        ids = self.windows.op.channels
        return ids[ids != 0]

    @property
    def best(self) -> Floats32:
        """The largest share of the weights of each such index so far, (b,)."""
        return self.shares().max((1, 2), initial=0)[self.windows.op.channels != 0]

    @property
    def is_started(self) -> bool:
        """Whether a weight has a share."""
        return bool(self.peaks.any())

    def shares(self) -> Floats32:
        """Return the sensitivities of all weights so far, V (C, O/g, k) float32 in [0, 1]."""
        # Rounding of z and of the numerators can put a share a few ulps above one.
        with np.errstate(over="ignore", invalid="ignore"):
            shares = np.where(self.sizes > 0, np.minimum(self.sizes * self.peaks, 1), 0)
        channels, taps = len(self.windows.op.channels), self.windows.op.kernel_size
        return np.ascontiguousarray(shares.reshape(channels, taps, -1).swapaxes(1, 2))

    def see(self, seen: SumField, highest: float, scratch: ScratchArrays) -> None:
        """Count some samples in.

        Args:
            seen: The samples; sums that the guard fires at are overwritten.
            highest: The largest input.
            scratch: Memory for what is made of them.
        """
        with np.errstate(over="ignore", under="ignore", divide="ignore", invalid="ignore"):
            self.guard.apply(seen, highest)
            samples, positions, groups, rows = seen.z.shape
            inverse = np.divide(1, seen.z, out=scratch.take("inverse", seen.z.shape))
            every = np.arange(len(self.windows.op.channels), dtype=np.int64)[None]
            u = self.windows.inputs(seen, np.arange(samples * positions, dtype=np.int64), every)
            u = u.reshape(samples * positions, groups, -1).transpose(1, 2, 0)
            inverse = inverse.reshape(samples * positions, groups, rows).transpose(1, 2, 0)
            if self.averages:
                self._see_means(u, inverse, positions)
            else:
                self._see_largest(np.ascontiguousarray(u), np.ascontiguousarray(inverse))

    def _see_means(self, u: Floats32, inverse: Floats32, positions: int) -> None:
        """Count in the mean over the positions of every sample; u (g, E, N P), inverse (g, 2 O/g, N P)."""
        for first in range(0, u.shape[2], positions):
            here = slice(first, first + positions)
            means = np.matmul(u[:, :, here], inverse[:, :, here].swapaxes(1, 2)) / np.float32(positions)
            np.maximum(self.peaks, self._of_own_sign(means, slice(None)), out=self.peaks)

    def _see_largest(self, u: Floats32, inverse: Floats32) -> None:
        """Count in the maximum over all positions; u (g, E, N P), inverse (g, 2 O/g, N P)."""
        tops = u.max(2, initial=0), inverse.max(2, initial=0)
        powers = _power(u, tops[0]), _power(inverse, tops[1]).swapaxes(1, 2)
        _, entries, outputs = self.peaks.shape
        for some in chunks(entries, _BYTES * len(u) * outputs):
            largest = self._of_own_sign(tops[0][:, some, None].astype(np.float64) * tops[1][:, None], some)
            peaks, sizes = self.peaks[:, some], self.sizes[:, some]
            share = np.divide(peaks, largest, out=np.ones(peaks.shape), where=largest > 0)
            bound = self._of_own_sign(np.matmul(powers[0][:, some], powers[1]), some)
            over = (share < _HELD) | (bound > _doubled(share) * (1 - _SLACK))
            over &= (share < 1) & (sizes > 0) & ~(sizes * peaks >= FULL)
            group, entry, output = np.nonzero(over)
            self._raise(u, inverse, group, entry + some.start, output)

    def _raise(self, u: Floats32, inverse: Floats32, group: Ints, entry: Ints, output: Ints) -> None:
        """Compute the largest products of some weights."""
        row = output + np.where(self.positive[group, entry, output], 0, self.peaks.shape[2])
        size = max(1, _PIECE // u.shape[2])
        for first in range(0, len(group), size):
            here = slice(first, first + size)
            products = u[group[here], entry[here]]
            products *= inverse[group[here], row[here]]
            weights = group[here], entry[here], output[here]
            self.peaks[weights] = np.maximum(self.peaks[weights], products.max(1))

    def _of_own_sign(self, both: AnyFloats, some: slice) -> AnyFloats:
        """Pick what belongs to the sign of each weight, (g, e, O/g), of numbers of both rows, (g, e, 2 O/g)."""
        outputs = self.peaks.shape[2]
        return np.where(self.positive[:, some], both[..., :outputs], both[..., outputs:])


def _power(factors: Floats32, tops: Floats32) -> Floats:
    """Return the power 32 of factors (..., n) as shares of the largest of each row, (...,)."""
    units = np.where(tops > 0, tops, np.float32(1))[..., None]
    return _doubled(np.divide(factors, units, dtype=np.float64))


def _doubled(values: Floats) -> Floats:
    """Return the power 32."""
    for _ in range(_DOUBLINGS):
        values = np.square(values)
    return values
