"""The widths that a group may have, and those at which its response curve is measured."""

from __future__ import annotations

import math

import numpy as np

from onnxpfp.arrays import Ints
from onnxpfp.errors import TargetUnreachableError

__all__ = ["budget_of", "grid", "nearest_width", "unreachable", "widths_of"]


SHARES = tuple(number / 8 for number in range(7, 0, -1))
"""Shares of a group at which its response curve is measured, besides its smallest width."""


def widths_of(size: int, step: int, minimum: int) -> Ints:
    """List the widths that a group may have: multiples of the step from the minimum on, and all of it, ascending.

    With a minimum of 0 it may go entirely, which is a width of 0 before the others.
    """
    if minimum == 0:
        return np.insert(widths_of(size, step, 1), 0, 0)
    least = min(size, max(minimum, step) if size >= step else size)
    widths = np.arange(-(-least // step) * step, size, step, dtype=np.int64)
    return np.append(widths, size)


def grid(size: int, step: int, minimum: int) -> Ints:
    """List the widths at which a response curve is measured, ascending; the full width is left out."""
    allowed = widths_of(size, step, minimum)[:-1]
    if not allowed.size:
        return allowed
    aims = np.array([share * size for share in SHARES])
    nearest = allowed[np.abs(allowed[None] - aims[:, None]).argmin(axis=1)]
    return np.unique(np.append(nearest, allowed[0]))


def nearest_width(allowed: Ints, asked: float) -> int:
    """Return the allowed width that is nearest to a number of channels; of two as near the wider one.

    Args:
        allowed: Widths that the group may have, ascending.
        asked: The number.
    """
    return int(allowed[::-1][np.abs(allowed[::-1] - asked).argmin()])


def budget_of(target: float, full: int) -> int:
    """Return the largest cost that a share of the full cost admits."""
    # 0.29 * 100 is 28.999999999999996; asking for 29 % must admit 29 of 100.
    return math.floor(target * full * (1.0 + 1e-12))


def unreachable(counts: str, target: float, least: int, full: int, single: int) -> TargetUnreachableError:
    """Say that even the smallest widths cost more than a target allows.

    Args:
        counts: What the cost counts, as people call it.
        target: Share of the full cost that was asked for.
        least: Cost of the smallest widths.
        full: The full cost.
        single: Cost of one channel in every group; options that set widths lead no lower.
    """
    lower = "lower --round-to or --min-channels, or " if single < least else ""
    share = math.ceil(1000.0 * least / full) / 1000.0
    return TargetUnreachableError(
        f"the target is {target:.1%} of the {counts}, but {share:.1%} is the least that can be reached "
        f"({least:,} of {full:,})",
        hint=f"{lower}ask for a target of at least {share:.3f}",
    )
