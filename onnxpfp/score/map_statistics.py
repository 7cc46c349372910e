"""Statistics of the maps of channels: how much each varies, and how alike they are; a monoid over samples.

A_nj is the map of channel j on sample n:

    Mstd_j = mean over n of std(A_nj)                   population standard deviation over the entries of the map
    cos_ij = G_ij / sqrt(G_ii G_jj)                     G_ij = sum over n of <A_ni, A_nj>

Maps of one entry have no deviation, so theirs is that over the samples. Maps that are all zero have Mstd 0, and a
cosine of 0 with all others. A group whose maps are at several tensors, as those of a residual stream are, has the mean
of their Mstd, and the Gram matrix of all maps one behind the other, which is the sum of theirs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from onnxpfp.arrays import Floats

__all__ = ["MapStatistics", "cosines", "mean_std"]

NO_SPREAD = 1e-13
"""Share of the mean square below which a variance that is a difference of sums is rounding: of numbers in single
precision that are all alike it is far below, and a real spread in these is far above."""


@dataclass(frozen=True, slots=True, eq=False)
class MapStatistics:
    """Statistics of the maps of n channels at one tensor.

    Attributes:
        std_sum: Sum over samples of the population standard deviation over each map, (n,) float64.
        total: Sum of all entries, (n,) float64.
        square_sum: Sum of their squares, (n,) float64.
        gram: G, (n, n) float64; (0, 0) where it was not asked for.
        samples: Number of maps per channel.
        entries: Number of entries in them per channel.
    """

    std_sum: Floats
    total: Floats
    square_sum: Floats
    gram: Floats
    samples: int
    entries: int

    @classmethod
    def empty(cls, channels: int, *, gram: bool = True) -> Self:
        """Return the identity of `merge`."""
        matrix = np.zeros((channels, channels) if gram else (0, 0))
        return cls(np.zeros(channels), np.zeros(channels), np.zeros(channels), matrix, 0, 0)

    @classmethod
    def of(cls, maps: NDArray[Any], *, gram: bool = True) -> Self:
        """Return the statistics of maps (N, n, entries)."""
        samples, channels, entries = maps.shape
        # Channels first, so that the maps of a channel are one row.
        rows = np.ascontiguousarray(maps.swapaxes(0, 1), np.float64)
        flat = rows.reshape(channels, -1)
        matrix = flat @ flat.T if gram else np.zeros((0, 0))
        squares = matrix.diagonal().copy() if gram else np.einsum("cp,cp->c", flat, flat)
        # Less the first entry: then a map of equal numbers has no deviation at all, whatever its mean rounds to.
        moved = rows - rows[:, :, :1]
        moved -= moved.mean(axis=2, keepdims=True)
        std = np.sqrt(np.einsum("cnp,cnp->cn", moved, moved) / entries)
        return cls(std.sum(axis=1), flat.sum(axis=1), squares, matrix, samples, samples * entries)

    def merge(self, other: Self) -> Self:
        """Combine with the statistics of other samples, to float64 rounding in any order."""
        return type(self)(
            self.std_sum + other.std_sum,
            self.total + other.total,
            self.square_sum + other.square_sum,
            self.gram + other.gram,
            self.samples + other.samples,
            self.entries + other.entries,
        )

    @property
    def mean(self) -> Floats:
        """Mean of all entries, (n,)."""
        return self.total / max(1, self.entries)

    @property
    def mstd(self) -> Floats:
        """Mean standard deviation of a map, (n,); of maps of one entry that of the entries over all samples."""
        if self.entries > self.samples:
            return self.std_sum / self.samples
        squares = self.square_sum / max(1, self.entries)
        variance = squares - np.square(self.mean)
        return np.sqrt(np.where(variance > NO_SPREAD * squares, variance, 0.0))


def mean_std(tensors: Sequence[MapStatistics]) -> Floats:
    """Return the Mstd of the channels of a group, (n,): the mean over the tensors that have its maps."""
    return np.mean([each.mstd for each in tensors], axis=0)


def cosines(tensors: Sequence[MapStatistics]) -> Floats:
    """Return the cosines of the maps of the channels of a group, (n, n), those of all tensors one behind the other."""
    gram = np.sum([each.gram for each in tensors], axis=0)
    norms = np.sqrt(gram.diagonal())
    products = np.outer(norms, norms)
    return np.divide(gram, products, out=np.zeros_like(gram), where=products > 0.0)
