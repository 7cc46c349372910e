"""Second moments of columns and targets: all that a least-squares refit needs to know of the data.

They are sums, so those of other samples are added; the columns themselves are never kept. The sums are float64, and so
are the products of a refit, whose ridges go down to 1e-8 of the mean diagonal: products in float32 are off by up to
1e-6 of it, so a network of which everything stays would not stay the same. The first axis counts the groups of a
grouped convolution, which do not see each other; it is 1 elsewhere.

Counting rows in is cut into pieces that write to different places, so threads can share them. The pieces do not depend
on the number of threads, nor do the sums.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import combinations_with_replacement
from typing import Self

import numpy as np
from numpy.typing import NDArray

from onnxpfp.arrays import AnyFloats, Floats

__all__ = ["Moments", "Piece", "by_group"]

Piece = Callable[[], None]
"""Some of the work of counting rows in."""
BLOCK = 256
"""Columns, and outputs, of which one piece computes the products."""


def by_group(rows: NDArray[np.floating]) -> Floats:
    """Bring rows (T, g, n) to the order in which they are counted, (g, T, n) float64."""
    return np.ascontiguousarray(rows.swapaxes(0, 1), dtype=np.float64)


def _blocks(length: int, step: int = BLOCK) -> list[slice]:
    return [slice(start, min(start + step, length)) for start in range(0, length, step)]


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

    def add(self, columns: NDArray[np.floating], targets: NDArray[np.floating]) -> None:
        """Count columns (T, g, n) and targets (T, g, o) in, in place."""
        u = by_group(columns)
        self.count += u.shape[1]
        for piece in (*self.column_pieces(u), *self.target_pieces(u, by_group(targets))):
            piece()

    def column_pieces(self, u: AnyFloats) -> Iterator[Piece]:
        """Yield what counts columns (g, T, n) in, but for their number; products are of their type, and so rounded."""
        yield partial(_add_sums, self.u, u)
        columns = u.shape[2]
        if columns <= BLOCK:
            for some in _blocks(len(self.uu), max(1, (BLOCK // max(columns, 1)) ** 2)):
                yield partial(_add_squares, self.uu[some], u[some])
            return
        for total, each in zip(self.uu, u, strict=False):
            for one, other in combinations_with_replacement(_blocks(columns), 2):
                yield partial(_add_block, total, each, one, other)

    def target_pieces(self, u: Floats, t: Floats) -> Iterator[Piece]:
        """Yield what counts targets (g, T, o) of columns (g, T, n) in, but for their number."""
        yield partial(_add_sums, self.t, t)
        yield partial(_add_square_sums, self.tt, t)
        groups, outputs, columns = self.tu.shape
        if outputs <= BLOCK:
            for some in _blocks(groups, max(1, BLOCK * BLOCK // max(outputs * columns, 1))):
                yield partial(_add_products, self.tu[some], t[some], u[some])
            return
        for total, one, other in zip(self.tu, t, u, strict=True):
            for some in _blocks(outputs):
                yield partial(_add_products, total[some], one[:, some], other)

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

    def gram(self, *, centred: bool) -> Floats:
        """Return the covariance of u with itself, or the mean of u u^T, (g, n, n)."""
        gram = self.uu / self.count
        if centred:
            mean = self.u / self.count
            gram -= mean[:, :, None] * mean[:, None]
        return gram

    def cross(self, bias: Floats | None = None) -> Floats:
        """Return the covariances of t with u, (g, o, n), or the mean of (t - bias) u^T of a bias (g, o)."""
        level = self.t / self.count if bias is None else bias
        return self.tu / self.count - level[:, :, None] * (self.u / self.count)[:, None]

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


def _add_sums(total: Floats, rows: AnyFloats) -> None:
    total += rows.sum(1, np.float64)


def _add_square_sums(total: Floats, rows: Floats) -> None:
    total += np.einsum("gto,gto->go", rows, rows)


def _add_squares(total: Floats, rows: AnyFloats) -> None:
    """Add the Gram matrices of some groups; numpy computes half of a product of a matrix with itself."""
    total += np.matmul(rows.swapaxes(1, 2), rows)


def _add_block(total: Floats, rows: AnyFloats, one: slice, other: slice) -> None:
    """Add the products of two runs of columns, in both places where they stand."""
    product = rows[:, one].T @ rows[:, other]
    total[one, other] += product
    if one != other:
        total[other, one] += product.T


def _add_products(total: Floats, targets: Floats, rows: Floats) -> None:
    total += np.matmul(targets.swapaxes(-1, -2), rows)
