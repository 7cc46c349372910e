"""Least-squares fits of one op's own outputs from several sets of its columns, as it has at several widths of a group.

Narrower widths mostly keep some of what wider ones keep. With the columns of the smallest set in front, the Cholesky
factor of a set's matrix is then the leading block of the factor of the largest: one factorisation serves them all.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from onnxpfp.arrays import Bools, Floats, Ints
from onnxpfp.refit.cholesky import LinAlgError

__all__ = ["NestedFit", "nested_fits"]


class NestedFit(NamedTuple):
    """The fit to one set of columns.

    Attributes:
        weights: Of the columns that stay, (o, kept).
        residual: Second moments of what is left of the columns that go, (gone, gone); None where outputs were fitted.
        error: Mean square of what is missing from the outputs, summed over them; 0 where columns were fitted.
    """

    weights: Floats
    residual: Floats | None
    error: float


def nested_fits(gram: Floats, weights: Floats | None, stays: Bools, ridge: float) -> list[NestedFit | None]:
    """Fit outputs W u, or the columns u themselves, from the columns that stay, with a ridge towards W.

    With S what stays and R what goes, K = G_SS + lambda I and X = W_R G_RS K^-1, the weights are W_S + X, and what is
    missing has the mean square tr(W_R G_RR W_R^T) - <X, W_R G_RS> - lambda |X|^2.

    Args:
        gram: G, second moments of the columns, (n, n): covariances where a constant is fitted, too.
        weights: W, (o, n); None fits the columns that go, which makes W those rows of the identity.
        stays: Which columns stay, one set a row, (W, n).
        ridge: Share of the mean of diag G over the largest set that is added to the diagonal.

    Returns:
        One fit per set; None where a matrix is not positive definite even with the ridge.
    """
    fits: list[NestedFit | None] = [None] * len(stays)
    for rows, order in _chains(stays):
        try:
            factor, scale = _factor(gram, order, ridge)
        except LinAlgError:
            continue
        moved, gone = np.zeros((0, 0)), np.zeros(stays.shape[1], np.bool_)
        for row in reversed(rows):
            kept, more = order[: np.count_nonzero(stays[row])], np.flatnonzero(~stays[row] & ~gone)
            gone[more] = True
            # What goes from the larger set goes from the smaller one, too: its product is there already.
            if weights is not None:
                product = weights[:, more] @ gram[more]
                moved = product if not moved.size else moved + product
            fits[row] = _fit(gram, weights, moved, kept, np.flatnonzero(gone), (factor, scale))
    return fits


def _chains(stays: Bools) -> Iterator[tuple[list[int], Ints]]:
    """Yield sets that lie within each other, the smallest first, and the columns of the largest in that order."""
    left = [int(row) for row in np.argsort(stays.sum(1), kind="stable")]
    while left:
        rows, order, inside = [left[0]], np.flatnonzero(stays[left[0]]), stays[left[0]]
        for row in left[1:]:
            if (stays[row] >= inside).all():
                order = np.append(order, np.flatnonzero(stays[row] & ~inside))
                rows.append(row)
                inside = stays[row]
        yield rows, order
        left = [row for row in left if row not in rows]


def _factor(gram: Floats, order: Ints, ridge: float) -> tuple[Floats, float]:
    """Return the Cholesky factor of the matrix of some columns, (n, n), and what was added to its diagonal."""
    linalg: Any = importlib.import_module("scipy.linalg")
    matrix = gram[np.ix_(order, order)]
    scale = ridge * float(np.trace(matrix)) / max(1, len(matrix))
    if scale <= 0.0:
        raise LinAlgError("nothing varies")
    matrix[np.diag_indices_from(matrix)] += scale
    return linalg.cholesky(matrix, lower=True, overwrite_a=True, check_finite=False), scale


def _fit(
    gram: Floats, weights: Floats | None, moved: Floats, kept: Ints, gone: Ints, solver: tuple[Floats, float]
) -> NestedFit:
    """Fit one set.

    Args:
        gram: As in `nested_fits`.
        weights: As there.
        moved: W_R G_R, (o, n), where outputs are fitted.
        kept: What stays, in the order of the factor.
        gone: What goes, ascending.
        solver: The factor, and what was added to the diagonal.
    """
    linalg: Any = importlib.import_module("scipy.linalg")
    factor, added = solver
    moved = gram[gone] if weights is None else moved
    missing = moved[:, kept]
    found = linalg.cho_solve((factor[: kept.size, : kept.size], True), missing.T, check_finite=False).T
    place = np.argsort(kept)
    if weights is None:
        residual = moved[:, gone] - found @ missing.T - added * (found @ found.T)
        return NestedFit(found[:, place], residual, 0.0)
    error = (moved[:, gone] * weights[:, gone]).sum() - (found * missing).sum() - added * np.square(found).sum()
    return NestedFit((weights[:, kept] + found)[:, place], None, max(float(error), 0.0))
