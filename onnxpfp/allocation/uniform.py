"""The same share of every group: the plainest of all allocations."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from onnxpfp.allocation.cost import CostModel
from onnxpfp.allocation.widths import budget_of, unreachable
from onnxpfp.arrays import Ints

__all__ = ["allocate_uniformly"]


def allocate_uniformly(allowed: Sequence[Ints], cost: CostModel, target: float, reference: int | None = None) -> Ints:
    """Choose the largest share of every group that meets a target.

    Args:
        allowed: Widths that each group may have, ascending, the full one last.
        cost: Cost of a choice of widths.
        target: Share of the full cost to stay within.
        reference: What the target is a share of; None is the cost of all channels.

    Returns:
        Channels kept of each group, (groups,): the widest that are at most the share.

    Raises:
        TargetUnreachableError: Even the smallest widths cost more.
    """
    full = np.array([widths[-1] for widths in allowed], np.int64)
    whole = cost.total(full) if reference is None else reference
    budget = budget_of(target, whole)
    parts: list[NDArray[np.float64]] = [widths / size for widths, size in zip(allowed, full.tolist(), strict=True)]
    shares: NDArray[np.float64] = np.unique(np.concatenate(parts))

    def at(share: float) -> Ints:
        fitting = [int((widths <= share * widths[-1] + 1e-9).sum()) for widths in allowed]
        counts = [max(1, count) for count in fitting]
        return np.array([widths[count - 1] for widths, count in zip(allowed, counts, strict=True)], np.int64)

    if cost.total(at(0.0)) > budget:
        raise unreachable(cost.counts, target, cost.total(at(0.0)), whole, cost.total(np.ones_like(full)))
    low, high = 0, len(shares)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if cost.total(at(shares[middle])) <= budget else (low, middle)
    kept = at(shares[low])
    return kept if cost.total(kept) <= budget else at(0.0)
