"""Least-squares fits of one op's own outputs from several sets of its columns, as it has at several widths of a group.

Narrower widths mostly keep some of what wider ones keep. With the columns of the smallest set in front, the Cholesky
factor of a set's matrix is then the leading block of the factor of all columns: one factorisation serves them all.
Numbers are of the type of the Gram matrix.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from onnxpfp.arrays import AnyFloats, Bools, Ints
from onnxpfp.refit.cholesky import LinAlgError

__all__ = ["NestedFit", "fitted_weights", "nested_fits"]


class NestedFit(NamedTuple):
    """The fit to one set of columns.

    Attributes:
        weights: Of the columns that stay, (o, kept).
        residual: Second moments of what is left of the columns that go, (gone, gone); None where outputs were fitted.
        error: Mean square of what is missing from the outputs, summed over them; 0 where columns were fitted.
        energy: Mean square of the outputs themselves, summed over them; 0 where columns were fitted.
    """

    weights: AnyFloats
    residual: AnyFloats | None
    error: float
    energy: float


def fitted_weights(gram: AnyFloats, weights: AnyFloats | None, stays: Bools, ridge: float) -> AnyFloats | None:
    """Return the weights of one set of columns, (o, kept), for which only the matrix of what stays is factorised.

    Args:
        gram: As in `nested_fits`.
        weights: As there.
        stays: Which columns stay, (n,).
        ridge: As there.

    Returns:
        The weights; None where the matrix is not positive definite even with the ridge.
    """
    linalg: Any = importlib.import_module("scipy.linalg")
    kept, gone = np.flatnonzero(stays), np.flatnonzero(~stays)
    try:
        factor, _ = _factor(gram[np.ix_(kept, kept)], kept.size, ridge)
    except LinAlgError:
        return None
    right = gram[np.ix_(gone, kept)]
    if weights is not None:
        right = weights[:, gone] @ right
    moved = linalg.cho_solve((factor, True), right.T, check_finite=False).T
    return moved if weights is None else weights[:, kept] + moved


def nested_fits(gram: AnyFloats, weights: AnyFloats | None, stays: Bools, ridge: float) -> list[NestedFit | None]:
    """Fit outputs W u, or the columns u themselves, from the columns that stay, with a ridge towards W.

    With S what stays and R what goes, K = G_SS + lambda I and X = W_R G_RS K^-1, the weights are W_S + X. With the
    Cholesky factor L of G + lambda I, S in front of R, X = W_R L_RS L_SS^-1, and what is missing has the mean square
    |W_R L_RR|^2 - lambda |W_R|^2 - lambda |X|^2, for L_RR L_RR^T is the Schur complement of K.

    Args:
        gram: G, second moments of the columns, (n, n), symmetric to the bit: covariances where a constant is fitted,
            too.
        weights: W, (o, n); None fits the columns that go, which makes W those rows of the identity.
        stays: Which columns stay, one set a row, (W, n).
        ridge: Share of the mean of diag G over the largest set that is added to the diagonal.

    Returns:
        One fit per set; None where a matrix is not positive definite even with the ridge.
    """
    fits: list[NestedFit | None] = [None] * len(stays)
    for rows, order in _chains(stays):
        sizes = stays[rows].sum(1).tolist()
        try:
            factor, added = _factor(gram[np.ix_(order, order)], sizes[-1], ridge)
        except LinAlgError:
            continue
        if weights is None:
            found = [_column_fit(factor, order, size, added) for size in sizes]
        else:
            found = _output_fits(factor, order, sizes, added, weights)
        for row, fit in zip(rows, found, strict=True):
            fits[row] = fit
    return fits


def _chains(stays: Bools) -> Iterator[tuple[list[int], Ints]]:
    """Yield sets that lie within each other, the smallest first, and all columns in that order; last those of none."""
    left = [int(row) for row in np.argsort(stays.sum(1), kind="stable")]
    while left:
        rows, order, inside = [left[0]], np.flatnonzero(stays[left[0]]), stays[left[0]]
        for row in left[1:]:
            if (stays[row] >= inside).all():
                order = np.append(order, np.flatnonzero(stays[row] & ~inside))
                rows.append(row)
                inside = stays[row]
        yield rows, np.append(order, np.flatnonzero(~inside))
        left = [row for row in left if row not in rows]


def _factor(matrix: AnyFloats, largest: int, ridge: float) -> tuple[AnyFloats, float]:
    """Return the Cholesky factor of a matrix, (n, n), and what was added to its diagonal.

    Args:
        matrix: Second moments of the columns, those of the largest set in front; it is overwritten.
        largest: How many these are.
        ridge: As in `nested_fits`.

    Raises:
        LinAlgError: It is not positive definite.
    """
    linalg: Any = importlib.import_module("scipy.linalg")
    diagonal = np.einsum("nn->n", matrix)
    added = ridge * float(diagonal[:largest].sum()) / max(1, largest)
    if added <= 0.0:
        raise LinAlgError("nothing varies")
    diagonal += added
    # The transpose is in the order of LAPACK, so nothing is copied.
    return linalg.cholesky(matrix.T, lower=True, overwrite_a=True, check_finite=False), added


def _moved(factor: AnyFloats, right: AnyFloats, kept: int) -> AnyFloats:
    """Return X, (o, kept), from W_R L_RS."""
    linalg: Any = importlib.import_module("scipy.linalg")
    return linalg.solve_triangular(factor[:kept, :kept], right.T, trans="T", lower=True, check_finite=False).T


def _output_fits(
    factor: AnyFloats, order: Ints, sizes: Sequence[int], added: float, weights: AnyFloats
) -> Iterator[NestedFit]:
    """Fit outputs from sets of columns within each other.

    Args:
        factor: L.
        order: The column that each of its rows stands for.
        sizes: How many of them stay, one number a set, ascending.
        added: lambda.
        weights: W, (o, n).

    Returns:
        One fit per set.
    """
    placed = weights[:, order]
    left, end = np.zeros_like(placed), len(order)
    found: list[tuple[AnyFloats, float]] = []
    for kept in reversed(sizes):
        # What goes from the larger set goes from the smaller one, too: its product is there already.
        left[:, :end] += placed[:, kept:end] @ factor[kept:end, :end]
        end, moved = kept, _moved(factor, left[:, :kept], kept)
        error = _square(left[:, kept:]) - added * (_square(placed[:, kept:]) + _square(moved))
        found.append(((placed[:, :kept] + moved)[:, np.argsort(order[:kept])], max(error, 0.0)))
    left[:, :end] += placed[:, :end] @ factor[:end, :end]
    energy = _square(left) - added * _square(placed)
    return (NestedFit(fitted, None, error, energy) for fitted, error in reversed(found))


def _square(values: AnyFloats) -> float:
    flat = values.ravel()
    return float(flat @ flat)


def _column_fit(factor: AnyFloats, order: Ints, kept: int, added: float) -> NestedFit:
    """Fit the columns that go from those that stay; arguments as those of `_output_fits`."""
    moved, left = _moved(factor, factor[kept:, :kept], kept), factor[kept:, kept:]
    residual = left @ left.T - added * (moved @ moved.T)
    residual[np.diag_indices_from(residual)] -= added
    stays, goes = np.argsort(order[:kept]), np.argsort(order[kept:])
    return NestedFit(moved[np.ix_(goes, stays)], residual[np.ix_(goes, goes)], 0.0, 0.0)
