"""scipy's Cholesky solver, with types."""

from __future__ import annotations

import importlib
from typing import Any

from numpy.linalg import LinAlgError

from onnxpfp.arrays import Floats

__all__ = ["LinAlgError", "solved"]


def solved(matrix: Floats, right: Floats) -> Floats:
    """Solve matrix x = right for a positive definite matrix (n, n), which is overwritten, and right (n, m).

    Raises:
        LinAlgError: It is not positive definite.
    """
    linalg: Any = importlib.import_module("scipy.linalg")
    factor = linalg.cho_factor(matrix, lower=True, overwrite_a=True, check_finite=False)
    return linalg.cho_solve(factor, right, check_finite=False)
