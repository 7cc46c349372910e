"""How far the output drifts when one group is narrowed alone, and when the network is pruned to shares of its MACs.

Every share is pruned in one shot from the original (algorithms.md 6.3). The loss is the divergence of
`onnxpfp.verify.metrics`, which is 0 for the original, on samples that nothing was fitted to.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from onnxpfp.allocation.cost import CostModel
from onnxpfp.pipeline.candidate import build_candidate
from onnxpfp.pipeline.decide import choose
from onnxpfp.pipeline.group_trials import GroupTrial
from onnxpfp.pipeline.steps import Measured, RunContext
from onnxpfp.progress import Clock, Count
from onnxpfp.verify.evaluator import Evaluator

__all__ = ["Point", "group_points", "network_points", "shares_down_to"]

PERCENT = tuple(range(90, 10, -10))
"""Percentages of the MACs at which the whole network is measured."""


@dataclass(frozen=True, slots=True)
class Point:
    """One point of a curve.

    Attributes:
        share: Share that is kept: of a group's channels, or of the network's MACs.
        loss: How far the output drifted from the original's; 0 where everything is kept.
        macs: Share of the network's MACs that is left.
    """

    share: float
    loss: float
    macs: float


def group_points(cost: CostModel, sizes: NDArray[np.int64], narrowed: Sequence[GroupTrial]) -> list[tuple[Point, ...]]:
    """Put what was measured of every group in terms of shares, the whole group first.

    Args:
        cost: MACs over the widths of all groups.
        sizes: Channels of each group.
        narrowed: What was measured.
    """
    full = cost.total(sizes)
    found: list[tuple[Point, ...]] = []
    for number, one in enumerate(narrowed):
        points = [Point(1.0, 0.0, 1.0)]
        for width, loss in zip(one.widths[::-1].tolist(), one.drifts[::-1], strict=True):
            kept = sizes.copy()
            kept[number] = width
            points.append(Point(width / int(sizes[number]), loss, cost.total(kept) / full))
        found.append(tuple(points))
    return found


def shares_down_to(least: float) -> tuple[float, ...]:
    """List the shares of the MACs at which the whole network is measured, descending, the smallest reachable last."""
    shares = [percent / 100 for percent in PERCENT if percent / 100 > least]
    return tuple(shares) if least < PERCENT[-1] / 100 else (*shares, least)


def network_points(
    measured: Measured,
    context: RunContext,
    cost: CostModel,
    evaluator: Evaluator,
    shares: Sequence[float],
    tell: Count,
) -> tuple[Point, ...]:
    """Prune the network to shares of its MACs, and measure each; the whole network is the first point.

    Args:
        measured: The network, and what was measured on it.
        context: How to prune.
        cost: MACs over the widths of all groups.
        evaluator: Measures the loss.
        shares: Shares of the MACs, descending; one that leaves the same channels as the one before is left out.
        tell: Told how many shares are done, of how many.
    """
    graph, keep = measured.analysis.graph, measured.analysis.graph.keep_all()
    points = [Point(1.0, 0.0, 1.0)]
    for number, share in enumerate(shares):
        tell(number, len(shares))
        options = replace(context.options, keep_macs=share, keep_params=None)
        decision = choose(
            measured.analysis, measured.calibration, measured.places, options, None, measured.curves, context.full
        )
        if np.array_equal(decision.keep, keep):
            continue
        keep = decision.keep
        # All of it is one phase to whoever waits for it, so nobody reads this clock.
        done = build_candidate(
            measured.analysis, measured.readers, measured.calibration, decision, measured.places, options, Clock()
        )
        kept = np.array([keep[group.channels].sum() for group in graph.groups], np.int64)
        macs = cost.total(kept) / context.full
        points.append(Point(macs, evaluator.loss(done.model), macs))
    return tuple(points)
