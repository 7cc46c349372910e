"""Curves of prunability: the output's drift when one group is pruned alone, and when the network is pruned to shares.

Every share is pruned in one shot from the original, as for the prunability of arXiv 2103.06002. Without labels the loss
is the divergence of `onnxpfp.comparison.metrics`, 0 for the original, on samples that nothing was fitted to.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from onnx import ModelProto

from onnxpfp.allocation.cost import CostModel
from onnxpfp.pipeline.context import RunContext
from onnxpfp.pipeline.costs import mac_model
from onnxpfp.pipeline.group_trials import GroupTrial
from onnxpfp.pipeline.network_steps import MeasuredPart, PrunedNetwork
from onnxpfp.pipeline.selector import Decision
from onnxpfp.progress import Clock, Count

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


def group_points(cost: CostModel, trials: Sequence[GroupTrial], weight: float = 1.0) -> list[tuple[Point, ...]]:
    """Put what was measured of every group in terms of shares, the whole group first.

    Args:
        cost: MACs over the widths of all groups.
        trials: What was measured.
        weight: Share of the network's MACs that the groups' part has.
    """
    sizes = np.array([trial.allowed[0] for trial in trials], np.int64)
    full = cost.total(sizes)
    curves: list[tuple[Point, ...]] = []
    for number, one in enumerate(trials):
        points = [Point(1.0, 0.0, 1.0)]
        for width, loss in zip(one.widths[::-1].tolist(), one.drifts[::-1], strict=True):
            kept = sizes.copy()
            kept[number] = width
            gone = weight * (full - cost.total(kept)) / full
            points.append(Point(width / int(sizes[number]), loss, 1.0 - gone))
        curves.append(tuple(points))
    return curves


def shares_down_to(least: float) -> tuple[float, ...]:
    """List the shares of the MACs at which the whole network is measured, descending, the smallest reachable last."""
    shares = [percent / 100 for percent in PERCENT if percent / 100 > least]
    return tuple(shares) if least < PERCENT[-1] / 100 else (*shares, least)


def network_points(
    context: RunContext,
    parts: Sequence[MeasuredPart],
    prune: Callable[[RunContext], PrunedNetwork],
    loss: Callable[[ModelProto], float],
    whole: float,
    shares: Sequence[float],
    progress: Count,
) -> tuple[Point, ...]:
    """Prune the network to shares of its MACs, and measure each; the whole network is the first point.

    Args:
        context: How to prune.
        parts: The parts of the network, and what was measured on them.
        prune: Prunes them to what a context asks for.
        loss: Measures the loss of a model.
        whole: That of the whole network.
        shares: Shares of the MACs, descending; one that leaves the same channels as the one before is left out.
        progress: Told how many shares are done, of how many.
    """
    costs = [mac_model(each.measured.analysis) for each in parts]
    full = sum(each.full for each in parts)
    points = [Point(1.0, whole, 1.0)]
    before = 1.0
    for number, share in enumerate(shares):
        progress(number, len(shares))
        # All of it is one phase to whoever waits for it, so nobody reads this clock.
        pruned = prune(replace(context, options=replace(context.options, keep_macs=share), clock=Clock()))
        macs = sum(map(_macs_left, parts, costs, pruned.decisions)) / full
        if macs < before:
            points.append(Point(macs, loss(pruned.whole.model), macs))
        before = macs
    return tuple(points)


def _macs_left(each: MeasuredPart, cost: CostModel, decision: Decision) -> float:
    groups = each.measured.analysis.graph.groups
    kept = np.array([decision.keep[group.channels].sum() for group in groups], np.int64)
    return each.part.runs * cost.total(kept)
