"""How far the output drifts when one group is narrowed alone, and when the network is pruned to shares of its MACs.

Every share is pruned in one shot from the original (algorithms.md 6.3). The loss is the divergence of
`onnxpfp.verify.metrics`, which is 0 for the original, on samples that nothing was fitted to.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from onnxpfp.allocation.cost import CostModel
from onnxpfp.data.samples import Samples
from onnxpfp.pipeline.candidate import build_candidate
from onnxpfp.pipeline.decide import choose
from onnxpfp.pipeline.group_trials import GroupTrial
from onnxpfp.pipeline.steps import Measured, RunContext
from onnxpfp.progress import Clock, Count
from onnxpfp.runtime.session import Session, open_session
from onnxpfp.verify.metrics import divergence, looks_like_classes

__all__ = ["Evaluator", "Point", "group_points", "network_points", "shares_down_to"]

Outputs = Mapping[str, NDArray[Any]]

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


@dataclass(frozen=True, slots=True, eq=False)
class Evaluator:
    """Measures the loss of other networks against the original.

    Attributes:
        samples: What they are run on.
        context: How they are run.
        wanted: Outputs of the original, by batch.
        providers: Where onnxruntime really ran it.
    """

    samples: Samples
    context: RunContext
    wanted: tuple[Outputs, ...]
    providers: tuple[str, ...]

    @classmethod
    def of(cls, original: ModelProto, samples: Samples, context: RunContext) -> Evaluator:
        """Run the original."""
        session = open_session(original, context.requests, threads=context.options.threads)
        return cls(samples, context, _outputs(session, samples, context), session.providers)

    @property
    def losses(self) -> dict[str, str]:
        """How the drift of each output is measured; whole numbers count only where there are no floats."""
        shown = self.wanted[0]
        return {
            name: "KL divergence" if looks_like_classes(value) else "relative squared error"
            for name, value in shown.items()
            if value.dtype.kind == "f"
        } or {name: "share of the numbers that changed" for name, value in shown.items() if value.dtype.kind in "iub"}

    def loss(self, model: ModelProto) -> float:
        """Run another network."""
        session = open_session(model, self.context.requests, threads=self.context.options.threads)
        return divergence(self.wanted, _outputs(session, self.samples, self.context))


def _outputs(session: Session, samples: Samples, context: RunContext) -> tuple[Outputs, ...]:
    return tuple(session.run(feed) for feed in samples.batches(context.data.batch_size))


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
