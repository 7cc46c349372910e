"""What the error of a part of a layer is at most, relative to the sum that it approximates (SiPP).

For an input that nobody has seen, let every share be at most K times the sensitivity of its weight: the assumption that
PFP's bounds rest on, too (`onnxpfp.score.pfp`). Let z be the sum of a part at any position, for one sign of inputs.

**Kept as they are.** Where weights D go, |zhat - z| is the sum of their products, so at most K z times the sum of their
s, and at most z. That holds at all positions at once, and of no draw.

**Drawn.** N weights are drawn with replacement by p = s / S, and each is multiplied by count / (N p). That estimates z
without bias; N terms of at most K S z / N with a variance of K S z^2 / N together, so by Bernstein's inequality

    P(|zhat - z| > eps z) <= 2 exp(-3 eps^2 N / (K S (6 + 2 eps)))          at one position, for one sign of inputs

With A = K S L, L = ln(8 (P + 1) k / delta), the right side is at most delta for all of them at once where

    eps(N) = A / 3N + sqrt((A / 3N)^2 + 2 A / N)

The authors' code has (a / 3N + sqrt((a / 3N)^2 + 2 a / N)) / 2 with a = 2 A, which is A / 3N + sqrt((A / 3N)^2 + A /
N): too small by up to a factor of sqrt(2), where N is large.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from onnxpfp.arrays import Floats
from onnxpfp.score.pfp import K

__all__ = ["bound_of_draws", "bound_of_dropped"]


def bound_of_draws(totals: ArrayLike, draws: ArrayLike, log_terms: ArrayLike, k: float = K) -> Floats:
    """Bound the relative error of drawn parts, (parts,); infinite without a draw, 0 where there is nothing to draw.

    Args:
        totals: S, (parts,).
        draws: N, fixed before anything is drawn, (parts,).
        log_terms: L, (parts,).
        k: The constant K of the assumption.
    """
    totals, draws, log_terms = (np.asarray(each, np.float64) for each in (totals, draws, log_terms))
    with np.errstate(divide="ignore", invalid="ignore"):
        third = k * totals * log_terms / (3.0 * draws)
        bounds = third + np.sqrt(third * third + 6.0 * third)
    return np.where(totals > 0, bounds, 0.0)


def bound_of_dropped(dropped: ArrayLike, k: float = K) -> Floats:
    """Bound the relative error of parts of which weights with sensitivities of these sums go, (parts,)."""
    return np.minimum(1.0, k * np.asarray(dropped, np.float64))
