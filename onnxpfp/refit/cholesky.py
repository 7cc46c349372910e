"""scipy's Cholesky solver, with types; numpy's for many small matrices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.linalg import LinAlgError
from scipy import linalg

from onnxpfp.arrays import AnyFloats

__all__ = ["Factored", "LinAlgError"]

_LINALG = cast("Any", linalg)


@dataclass(frozen=True, slots=True, eq=False)
class Factored:
    """Positive definite matrices, ready to solve with.

    Attributes:
        matrices: The Cholesky factor of a single one, (1, n, n). Several, (g, n, n), stay as they are: those of grouped
            convolutions are so small that calling LAPACK for each takes longer than what it does.
    """

    matrices: AnyFloats

    @classmethod
    def of(cls, matrices: AnyFloats) -> Factored:
        """Factorise matrices (g, n, n), symmetric to the bit, which may be overwritten.

        Raises:
            LinAlgError: One is not positive definite.
        """
        if len(matrices) != 1:
            np.linalg.cholesky(matrices)
            return cls(matrices)
        # The transpose is in the order of LAPACK, so nothing is copied.
        return cls(_LINALG.cholesky(matrices[0].T, lower=True, overwrite_a=True, check_finite=False)[None])

    def solved(self, right: AnyFloats) -> AnyFloats:
        """Return x with matrix x = right, (g, n, m)."""
        if len(self.matrices) != 1:
            return np.linalg.solve(self.matrices, right)
        return _LINALG.cho_solve((self.matrices[0], True), right[0], check_finite=False)[None]
