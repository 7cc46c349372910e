"""Second moments of what a layer reads, as far as its outputs' error needs them. Pure numpy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.linalg import LinAlgError

from onnxpfp.arrays import Floats

__all__ = ["InputMoments", "factored", "ridged"]

RIDGES = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2)
"""Shares of the mean diagonal that are added to it until a matrix is positive definite. Sums of float32 products are
off by about the first; a direction that the samples do not show counts as little."""


@dataclass(frozen=True, slots=True, eq=False)
class InputMoments:
    """G = E[u u^T] of the columns u, the c k inputs that one output position sees; covariances where a bias is free.

    Attributes:
        matrix: (g, n, n) by convolution group. n is c k, channels first, then taps; or c, where c k are too many: then
            the taps of a channel count as alike and uncorrelated.
        taps: How many columns one of the n stands for: 1, or k.
    """

    matrix: Floats
    taps: int

    @property
    def whole(self) -> bool:
        """Whether every column has its own row."""
        return self.taps == 1

    def energy(self, weights: Floats) -> Floats:
        """Return the mean square of W u, summed over the outputs: tr(W G W^T), (g,).

        Args:
            weights: (g, o, c, *k).
        """
        groups, outputs, channels = weights.shape[:3]
        flat = weights.reshape(groups, outputs, channels, -1)
        rows = flat if self.whole else flat.swapaxes(2, 3)
        rows = rows.reshape(groups, -1, self.matrix.shape[1])
        return np.einsum("gon,gon->g", rows @ self.matrix, rows)

    def whitened(self, matrices: Floats, channels: int, taps: int) -> Floats:
        """Return L^T M, with L L^T the second moments of what the rows of M multiply.

        These are the inputs under some of a window's taps: their moments are the mean over where that part of the
        window stands in the whole one.

        Args:
            matrices: M (g, c a, m): channels first, then taps.
            channels: c.
            taps: a.
        """
        groups, _, rest = matrices.shape
        if not self.whole:
            roots = np.swapaxes(factored(self.matrix), 1, 2)
            return (roots @ matrices.reshape(groups, channels, -1)).reshape(groups, -1, rest)
        rows = channels * taps
        behind = self.matrix.shape[1] // rows
        blocks = self.matrix.reshape(groups, rows, behind, rows, behind)
        return np.swapaxes(factored(np.einsum("gmbnb->gmn", blocks) / behind), 1, 2) @ matrices


def factored(matrices: Floats) -> Floats:
    """Return the Cholesky factors L of positive semidefinite matrices (g, n, n), with the smallest ridge that works.

    Raises:
        LinAlgError: They are not positive definite with any.
    """
    diagonal = np.einsum("gnn->gn", matrices)
    for ridge in RIDGES:
        added = ridge * diagonal.mean(axis=1)
        if not (added > 0).all():
            break
        shifted = matrices.copy()
        cast("Any", np).einsum("gnn->gn", shifted)[:] += added[:, None]
        try:
            return cast("Floats", np.linalg.cholesky(shifted))
        except LinAlgError:
            continue
    raise LinAlgError("a matrix of second moments is not positive definite")


def ridged(matrices: Floats, ridge: float) -> Floats:
    """Return matrices (g, n, n) with a share of their mean diagonals added to these."""
    size = matrices.shape[1]
    return matrices + ridge * np.einsum("gnn->gn", matrices).mean(1)[:, None, None] * np.eye(size)
