"""One share for all parts of a network, as far as each can come down to it."""

from __future__ import annotations

import numpy as np

from onnxpfp.arrays import Floats

__all__ = ["share_levels"]

HALVINGS = 60
"""Of the interval of the level: beyond the precision of a float64."""


def share_levels(full: Floats, least: Floats, target: float) -> list[float] | None:
    """Find the shares that parts keep of their costs, so that together they keep the target's share.

    Every part keeps the same, but for those that cannot come down to that: they keep the least they can, and the others
    as much less.

    Args:
        full: What every part costs, (P,), not negative.
        least: What it costs at least, (P,).
        target: Share of the sum of all costs that stays.

    Returns:
        A share for every part; None where even the least costs are more than the target allows.
    """
    floor = np.divide(least, full, out=np.ones_like(full), where=full > 0)
    if (floor <= target).all():
        return [target] * full.size
    budget = target * float(full.sum())
    if float(least.sum()) > budget * (1.0 + 1e-12):
        return None
    low, high = 0.0, target
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if float((full * np.maximum(floor, middle)).sum()) <= budget else (low, middle)
    return np.maximum(floor, low).tolist()
