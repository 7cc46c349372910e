"""scipy's Cholesky solver, with types."""

from __future__ import annotations

from typing import Any, cast

from numpy.linalg import LinAlgError
from scipy import linalg

from onnxpfp.arrays import Floats

__all__ = ["LinAlgError", "factor", "solved"]

_LINALG = cast("Any", linalg)


def factor(matrix: Floats) -> Floats:
    """Factorise a positive definite matrix (n, n), symmetric to the bit, which is overwritten.

    Raises:
        LinAlgError: It is not positive definite.
    """
    # Its transpose is in the order of LAPACK, so nothing is copied.
    return _LINALG.cholesky(matrix.T, lower=True, overwrite_a=True, check_finite=False)


def solved(factored: Floats, right: Floats) -> Floats:
    """Solve matrix x = right, (n, m), for a matrix that `factor` has factorised."""
    return _LINALG.cho_solve((factored, True), right, check_finite=False)
