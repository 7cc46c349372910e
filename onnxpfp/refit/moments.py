"""Second moments of columns and targets: all that a least-squares refit needs to know of the data.

They are sums, so those of other samples are added; the columns themselves are never kept. Everything is float64. The
first axis counts the groups of a grouped convolution, which do not see each other; it is 1 elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from onnxpfp.arrays import Floats

__all__ = ["Moments"]


@dataclass(slots=True, eq=False)
class Moments:
    """Sums over (sample, position) pairs of columns u (g, n) and targets t (g, o).

    Attributes:
        u: Sum of u, (g, n).
        uu: Sum of u u^T, (g, n, n): the Gram matrix; (0, n, n) where none is kept.
        t: Sum of t, (g, o).
        tt: Sum of t^2, (g, o).
        tu: Sum of t u^T, (g, o, n).
        count: Number of pairs.
    """

    u: Floats
    uu: Floats
    t: Floats
    tt: Floats
    tu: Floats
    count: int = 0

    @classmethod
    def empty(cls, groups: int, columns: int, outputs: int, *, gram: bool = True) -> Self:
        """Return the identity of `merge`; without Gram matrix where none is needed."""
        return cls(
            np.zeros((groups, columns)),
            np.zeros((groups if gram else 0, columns, columns)),
            np.zeros((groups, outputs)),
            np.zeros((groups, outputs)),
            np.zeros((groups, outputs, columns)),
        )

    @classmethod
    def beside(cls, other: Self, outputs: int) -> Self:
        """Return empty moments of other targets of the same columns, whose sums over the columns are shared."""
        groups, columns = other.u.shape
        empty = np.zeros((groups, outputs)), np.zeros((groups, outputs)), np.zeros((groups, outputs, columns))
        return cls(other.u, other.uu, *empty)

    def add(self, columns: NDArray[np.floating], targets: Floats) -> None:
        """Count columns (T, g, n) and targets (T, g, o) in, in place."""
        u = np.ascontiguousarray(columns.swapaxes(0, 1), dtype=np.float64)
        self.count += u.shape[1]
        self.u += u.sum(1)
        for group in range(len(self.uu)):
            # numpy computes half of a product of a matrix with itself.
            self.uu[group] += u[group].T @ u[group]
        self._add_targets(u, targets)

    def add_beside(self, columns: NDArray[np.floating], targets: Floats) -> None:
        """Count columns and targets in where the sums over the columns are shared and have them already."""
        self.count += len(columns)
        self.add_targets(columns, targets)

    def add_targets(self, columns: NDArray[np.floating], targets: Floats) -> None:
        """Count only the targets in, in place, of columns that were counted before."""
        self._add_targets(np.ascontiguousarray(columns.swapaxes(0, 1), dtype=np.float64), targets)

    def _add_targets(self, u: Floats, targets: Floats) -> None:
        t = np.ascontiguousarray(targets.swapaxes(0, 1))
        self.t += t.sum(1)
        self.tt += np.square(t).sum(1)
        self.tu += np.matmul(t.swapaxes(1, 2), u)

    def merge(self, other: Self) -> Self:
        """Add the sums of other samples."""
        return type(self)(
            self.u + other.u,
            self.uu + other.uu,
            self.t + other.t,
            self.tt + other.tt,
            self.tu + other.tu,
            self.count + other.count,
        )

    def centred(self, group: int) -> tuple[Floats, Floats]:
        """Return the covariances of u with itself, (n, n), and of t with u, (o, n)."""
        mean = self.u[group] / self.count
        gram = self.uu[group] / self.count - np.outer(mean, mean)
        return gram, self.tu[group] / self.count - np.outer(self.t[group] / self.count, mean)

    def about(self, group: int, bias: Floats) -> tuple[Floats, Floats]:
        """Return the mean of u u^T, (n, n), and of (t - bias) u^T, (o, n), of a bias (o,)."""
        mean = self.u[group] / self.count
        return self.uu[group] / self.count, self.tu[group] / self.count - np.outer(bias, mean)

    def error(self, weights: Floats, bias: Floats) -> Floats:
        """Return the mean of (t - weights u - bias)^2, (g, o), of weights (g, o, n) and bias (g, o)."""
        fitted = np.einsum("gon,gn->go", weights, self.u)
        square = (
            self.tt
            - 2 * np.einsum("gon,gon->go", weights, self.tu)
            - 2 * bias * self.t
            + np.einsum("gon,gon->go", weights @ self.uu, weights)
            + 2 * bias * fitted
            + self.count * np.square(bias)
        )
        return np.maximum(square, 0.0) / max(1, self.count)
