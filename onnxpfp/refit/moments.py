"""Second moments of columns and targets: all that a least-squares refit needs to know of the data.

They are sums, so those of other samples are added; the columns themselves are never kept. The sums are float64. The
products of tuning rows are, too, for they tell which fit is better, down to a network of which everything stays. Those
of fitted rows are float32, half the work: they are off by up to 1e-6 of the mean variance, so where the smallest
ridges, 1e-6 and 1e-8 of it, would serve best, a larger one may be taken. The first axis counts the groups of a grouped
convolution, which do not see each other; it is 1 elsewhere.

Counting rows in is cut into pieces that write to different places, so threads can share them. The pieces do not depend
on the number of threads, nor do the sums, which are added in the order of the rows.
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

__all__ = ["Moments", "OrderedRows", "Piece", "by_group"]

BLOCK = 256
"""Columns, and outputs, of which one piece computes the products."""
LEVEL_ROWS = 64
"""Rows whose mean is a level that all are near to."""


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """Some of the work of counting rows in: sums over the rows, which are computed, and then added to what there is.

    Sums may be computed in any order, and are added in that of the rows.

    Attributes:
        compute: Returns the sums.
        total: What they are added to.
        mirrored: The other place where they stand, transposed; None where there is none.
    """

    compute: Callable[[], AnyFloats]
    total: AnyFloats
    mirrored: AnyFloats | None = None

    def add(self, sums: AnyFloats) -> None:
        """Add sums that were computed."""
        np.add(self.total, sums, out=self.total)
        if self.mirrored is not None:
            np.add(self.mirrored, sums.swapaxes(1, 2), out=self.mirrored)

    def __call__(self) -> None:
        """Do both."""
        self.add(self.compute())


@dataclass(frozen=True, slots=True, eq=False)
class OrderedRows:
    """Rows in the order in which they are counted, as what they are above a level.

    Attributes:
        above: (g, T, n), float64 or float32.
        level: (g, n).
        sums: Of what they are above it, (g, n).
    """

    above: AnyFloats
    level: Floats
    sums: Floats

    @classmethod
    def of(cls, above: AnyFloats, level: AnyFloats | None = None) -> Self:
        """Add them up; without a level it is 0."""
        sums = above.sum(1, np.float64)
        return cls(above, np.zeros_like(sums) if level is None else level.astype(np.float64), sums)

    @property
    def count(self) -> int:
        """Number of rows."""
        return self.above.shape[1]

    @property
    def totals(self) -> Floats:
        """Sums of the rows themselves, (g, n)."""
        return self.sums + self.count * self.level

    def part(self, groups: slice, columns: slice = slice(None)) -> OrderedRows:
        """Return some columns of some groups."""
        return OrderedRows(self.above[groups, :, columns], self.level[groups, columns], self.sums[groups, columns])


def by_group(rows: NDArray[np.floating], *, precise: bool = True) -> OrderedRows:
    """Bring rows (T, g, n) to the order in which they are counted.

    Args:
        rows: The rows, finite.
        precise: Whether products of them are float64. Else they are float32, of what rows are above the mean of the
            first ones: where that is large, rounding would drown what varies.
    """
    ordered = np.ascontiguousarray(rows.swapaxes(0, 1), np.float64 if precise else np.float32)
    if precise:
        return OrderedRows.of(ordered)
    first = ordered[:, :LEVEL_ROWS]
    level = (first.sum(1, np.float64) / max(first.shape[1], 1)).astype(np.float32)
    return OrderedRows.of(ordered - level[:, None], level)


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
    uu: AnyFloats
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
        self.count += u.count
        for piece in (*self.column_pieces(u), *self.target_pieces(u, by_group(targets))):
            piece()

    def column_pieces(self, u: OrderedRows) -> Iterator[Piece]:
        """Yield what counts columns in, but for their number; products are of their type, and so rounded."""
        yield Piece(partial(_totals, u), self.u)
        columns = self.u.shape[1]
        step = max(1, (BLOCK // max(columns, 1)) ** 2)
        for some in _blocks(len(self.uu), step):
            for one, other in combinations_with_replacement(_blocks(columns), 2):
                total = self.uu[some]
                mirrored = None if one == other else total[:, other, one]
                yield Piece(partial(_products, u.part(some, one), u.part(some, other)), total[:, one, other], mirrored)

    def target_pieces(self, u: OrderedRows, t: OrderedRows) -> Iterator[Piece]:
        """Yield what counts targets of columns in, as `column_pieces` does."""
        yield Piece(partial(_totals, t), self.t)
        yield Piece(partial(_square_sums, t), self.tt)
        groups, outputs, columns = self.tu.shape
        step = max(1, BLOCK * BLOCK // max(outputs * columns, 1)) if outputs <= BLOCK else 1
        for some in _blocks(groups, step):
            for rows in _blocks(outputs):
                yield Piece(partial(_products, t.part(some, rows), u.part(some)), self.tu[some, rows])

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

    def gram(self, *, centred: bool, spent: bool = False) -> Floats:
        """Return the covariance of u with itself, or the mean of u u^T, (g, n, n).

        Args:
            centred: Which of them.
            spent: Whether nothing reads `uu` any more, so that the result may take its place.
        """
        gram: Floats = np.asarray(self.uu, np.float64) if spent else np.empty(self.uu.shape)
        self.write_gram(gram, centred=centred)
        return gram

    def write_gram(self, gram: AnyFloats, *, centred: bool) -> None:
        """Write what `gram` returns, rounded to another type and not held in float64 meanwhile."""
        mean = self.u / self.count
        for rows in _blocks(mean.shape[1] if len(gram) else 0):
            some = self.uu[:, rows] / self.count
            gram[:, rows] = some - mean[:, rows, None] * mean[:, None] if centred else some

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


def _totals(rows: OrderedRows) -> Floats:
    return rows.totals


def _square_sums(rows: OrderedRows) -> Floats:
    squares = np.einsum("gto,gto->go", rows.above, rows.above, dtype=np.float64)
    return squares + rows.level * (rows.sums + rows.totals)


def _products(one: OrderedRows, other: OrderedRows) -> AnyFloats:
    """Return the sums of the products of rows, (g, m, n); numpy computes half of those of rows with themselves."""
    product = np.matmul(one.above.swapaxes(1, 2), other.above)
    if not (one.level.any() or other.level.any()):
        return product
    product = product.astype(np.float64, copy=False)
    # Halves on both sides, so that products of rows with themselves are symmetric to the bit.
    middle, beside = (each.sums + each.count / 2 * each.level for each in (one, other))
    product += middle[:, :, None] * other.level[:, None] + one.level[:, :, None] * beside[:, None]
    return product
