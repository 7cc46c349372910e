"""Prunability of a network, read off a measured curve (arXiv 2103.06002).

    P(tolerance) = min {share : loss(share) <= tolerance}

A measured curve need not be monotone, so there are two readings of it: the smallest good share anywhere, and the last
good one on the way down before the first that fails.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["Prunability", "read_curve"]


@dataclass(frozen=True, slots=True)
class Prunability:
    """Prunability: the smallest share that can be kept within the tolerance.

    Attributes:
        smallest: The smallest measured share whose loss is within the tolerance, the definition of the paper.
        unbroken: The smallest measured share down to which every loss is within the tolerance.
        area: Area under the curve over the measured shares, straight between them; small is robust.
    """

    smallest: float
    unbroken: float
    area: float


def read_curve(shares: Sequence[float], losses: Sequence[float], tolerance: float) -> Prunability:
    """Read a curve.

    Args:
        shares: Measured shares in any order, the whole network (1.0) among them.
        losses: Loss at each.
        tolerance: Largest loss that counts as no harm.

    Raises:
        ValueError: The largest share is not within the tolerance.
    """
    order = np.argsort(shares)[::-1]
    share, loss = np.asarray(shares, np.float64)[order], np.asarray(losses, np.float64)[order]
    good = loss <= tolerance
    if not good.size or not good[0]:
        raise ValueError(f"the loss of the largest share is not within {tolerance:g}")
    unbroken = share.size if good.all() else int(good.argmin())
    area = float(((loss[:-1] + loss[1:]) / 2 * -np.diff(share)).sum())
    return Prunability(float(share[good].min()), float(share[unbroken - 1]), area)
