"""Baselines that look at the maps of a channel: the tensor that its consumers read, one map per sample.

  hrank  mean rank of the map as an (H, W) matrix   Lin et al., "HRank", CVPR 2020
  apoz   mean share of positive entries             Hu et al., "Network Trimming", 2016: 1 - APoZ, the share of entries
                                                    that are not zero behind a ReLU
  chip   mean loss of nuclear norm                  Sui et al., "CHIP", NeurIPS 2021: of all maps of a sample as
                                                    the rows of one matrix A (C, H W), ||A||_* - ||A without row j||_*

Each is a mean over samples of one number per sample and index.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxpfp.arrays import Floats
from onnxpfp.score.criterion import Criterion
from onnxpfp.score.group_data import GroupData

__all__ = ["Apoz", "Chip", "HRank", "map_ranks", "nuclear_losses", "positive_shares"]

Maps = NDArray[Any]

_STEP = 0.3
_FROM, _TO = -30.0, 27.0
"""Nodes of the integral of `_row_losses` in ln(s / largest singular value): its error is near exp(-pi^2 / step)."""


def map_ranks(maps: Maps) -> Floats:
    """Return the rank of every map, (N, C), of maps (N, C, *spatial).

    A map of three or more axes is the matrix of its last one; a map of one axis, or none, has rank 1 or 0.
    """
    rows = maps.reshape(*maps.shape[:2], -1, maps.shape[-1] if maps.ndim > 2 else 1)
    # The rank is that of the numbers as the network computed them: rounding of float32 is no rank.
    exact = rows if rows.dtype == np.float64 else rows.astype(np.float32)
    return np.linalg.matrix_rank(exact).astype(np.float64)


def positive_shares(maps: Maps) -> Floats:
    """Return the share of entries above zero, (N, C), of maps (N, C, *spatial)."""
    flat = maps.reshape(*maps.shape[:2], -1)
    return np.count_nonzero(flat > 0, axis=2) / flat.shape[2]


def nuclear_losses(maps: Maps) -> Floats:
    """Return what the nuclear norm of a sample's maps loses without each, (N, C), of maps (N, C, *spatial)."""
    flat = maps.reshape(*maps.shape[:2], -1).astype(np.float64)
    return np.stack([_row_losses(sample) for sample in flat])


def _row_losses(rows: Floats) -> Floats:
    """Return ||A||_* - ||A without row j||_* for every row j, (C,), of A (C, D).

    CHIP computes one SVD per row. One decomposition of the smaller Gram matrix is enough: with eigenvalues l_i and m_i
    of G = A A^T and of G without row and column j, and pi sqrt(x) = integral over s > 0 of ln(1 + x / s^2),

        sum sqrt(l_i) - sum sqrt(m_i) = -(1 / pi) integral of ln h_j(s) ds,   h_j(s) = s^2 [(G + s^2 I)^-1]_jj

    because the ratio of the determinants of G + s^2 I without and with row j is that entry of the inverse. With the
    left singular vectors u it is h_j = 1 - sum_i u_ji^2 l_i / (l_i + s^2). In ln s the integrand is analytic within
    pi / 2 of the real line and decays at both ends, so the trapezoidal rule converges exponentially.
    """
    values, vectors = _left_decomposition(rows)
    peak = values.max(initial=0.0)
    if peak == 0.0:
        return np.zeros(len(rows))
    squares, shares = np.square(vectors), values[:, None] / peak
    s = np.exp(np.arange(_FROM, _TO, _STEP))
    # 1 - h where s is large, h itself where it is small: neither is then a difference of near equals.
    missing = squares @ (shares / (shares + np.square(s)))
    outside = np.maximum(1.0 - squares.sum(axis=1, keepdims=True), 0.0)
    h = outside + squares @ (np.square(s) / (shares + np.square(s)))
    logs = np.log(h)
    large = missing < 0.5
    logs[large] = np.log1p(-missing[large])
    return -(logs @ s) * (_STEP / np.pi) * np.sqrt(peak)


def _left_decomposition(rows: Floats) -> tuple[Floats, Floats]:
    """Return the eigenvalues of A A^T and the eigenvectors (C, r), by the smaller Gram matrix of A (C, D)."""
    if rows.shape[0] <= rows.shape[1]:
        values, vectors = np.linalg.eigh(rows @ rows.T)
        return np.maximum(values, 0.0), vectors
    values, right = np.linalg.eigh(rows.T @ rows)
    real = values > values.max(initial=0.0) * len(values) * np.finfo(np.float64).eps
    return values[real], rows @ (right[:, real] / np.sqrt(values[real]))


class _OfMaps(Criterion):
    """A criterion of maps: each consumer's share of what the mean over samples is, added up."""

    needs = frozenset({"maps"})
    comparable = True

    def score(self, group: GroupData) -> Floats:
        """Add up the shares of every consumer."""
        means = [consumer.map_mean for consumer in group.consumers]
        return group.sum_over_consumers(_share(mean) for mean in means if mean is not None)


def _share(mean: Floats) -> Floats:
    total = float(mean.sum())
    return mean / total if total > 0.0 else mean


class HRank(_OfMaps):
    """The mean rank of a map."""

    name, title = "hrank", "mean rank of the maps (HRank)"

    def of_maps(self, maps: Maps) -> Floats:
        """Return the ranks."""
        return map_ranks(maps)


class Apoz(_OfMaps):
    """The mean share of positive entries of a map."""

    name, title = "apoz", "mean share of positive entries of the maps (APoZ)"

    def of_maps(self, maps: Maps) -> Floats:
        """Return the shares."""
        return positive_shares(maps)


class Chip(_OfMaps):
    """The mean loss of nuclear norm without a map."""

    name, title = "chip", "mean loss of nuclear norm of the maps (CHIP)"

    def of_maps(self, maps: Maps) -> Floats:
        """Return the losses."""
        return nuclear_losses(maps)
