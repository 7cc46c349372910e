"""Bounds of the error that a choice of channels makes in a layer, by held-out samples.

Where channels D go, of all groups that it reads, a consumer makes an error L_D(x) in [0, 1] for every input x: the mean
of its squared errors, each at most its output's mean square, as a share of these mean squares
(`onnxpfp.score.mean_share`).
Ranking and mean squares are of the samples to fit, widths of these and the tuning samples. The held-out samples are
independent of both, so their L_D(x) are independent draws, and `mean_bound` holds for E L_D(x). A group may have r
consumers: with alpha / r for each, all r bounds hold at once with probability 1 - alpha.

Where a target of quality is searched for, the held-out samples choose among m prunings that the other samples have
fixed (`onnxpfp.allocation.fixed_sequence`): with alpha / (m r) for each of them at each consumer all hold at once,
and with them those of the pruning that was chosen. What is printed is the square root of the largest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from onnxpfp.allocation.select import Selection
from onnxpfp.arrays import Arrays, Bools, Floats
from onnxpfp.calibrate.observer import Batch
from onnxpfp.calibrate.statistics import SampleSum
from onnxpfp.comparison.certificate import mean_bound
from onnxpfp.linear.ops import LinearOp
from onnxpfp.pipeline.calibration import Measured
from onnxpfp.pipeline.context import RunContext
from onnxpfp.pipeline.decide import Decision
from onnxpfp.pipeline.measurements import SHARE_POINTS, InputObserver, Measurements, consumer_taps, drawn_columns
from onnxpfp.score.mean_share import errors

__all__ = ["ErrorObserver", "bounded", "why_unbounded"]


def why_unbounded(context: RunContext, consumers: Sequence[LinearOp]) -> str:
    """Say why the errors of a group are not bounded by held-out samples; nothing where they are."""
    data = context.data
    if not data.independent:
        return "several of its samples come from one input"
    if data.held_out is None:
        return "no samples are held out"
    if (data.samples.fixed_batch or 1) > 1:
        return "samples run in batches of a fixed size, so the error of each is not known"
    products = [op.name for op in consumers if op.weight is None]
    return f"{products[0]} multiplies two activations, where no error is measured" if products else ""


def bounded(context: RunContext, measured: Measured, decision: Decision, candidates: int) -> Decision:
    """Give the selections of a choice the bounds that the held-out samples have of their errors.

    Args:
        context: What is asked for.
        measured: The model that was chosen from.
        decision: The choice, made in one step.
        candidates: Of so many choices the held-out samples have taken one.
    """
    scores, held_out = measured.calibration.scores, context.data.held_out
    if not scores.mean_squares or held_out is None or context.options.steps > 1:
        return decision
    cut = {
        number: selection
        for number, selection in enumerate(decision.selections)
        if selection is not None and not selection.unbounded and not selection.keep.all()
    }
    groups = measured.analysis.graph.groups
    readers = sorted({position for number in cut for position in groups[number].consumers})
    observers = {position: _observer(context, measured, position, decision) for position in readers}
    with context.clock.phase("ranking") as progress:
        # One by one, so that what a layer reads is of one sample, whatever the axes of its tensor are.
        alone = Measurements(measured.analysis, measured.ops, held_out, 1, context.requests, context.options, progress)
        alone.run([*observers.values()])
    alpha = (1.0 - context.options.confidence) / candidates
    selections = list[Selection | None](decision.selections)
    for number, selection in cut.items():
        positions = groups[number].consumers
        bounds = [mean_bound(np.array(observers[p].losses), alpha / len(positions)) for p in positions]
        selections[number] = replace(selection, bound=float(np.sqrt(max(bounds))))
    return replace(decision, selections=tuple(selections))


def _observer(context: RunContext, measured: Measured, position: int, decision: Decision) -> ErrorObserver:
    """Return what measures a consumer without all that the choice takes from what it reads."""
    op = measured.ops[position]
    gone = ~decision.keep[op.channels]
    return ErrorObserver(op, (context.options.seed, position), gone, measured.calibration.scores.mean_squares[position])


@dataclass(slots=True, eq=False)
class ErrorObserver(InputObserver):
    """Measures the error of a consumer without some channels, for each sample alone.

    Attributes:
        key: What sets its draws of positions apart from those of others.
        dropped: Which indices go, (C,).
        mean_squares: Mean square of every output, (g, O/g).
        losses: The error of every sample so far.
    """

    key: tuple[int, ...]
    dropped: Bools
    mean_squares: Floats
    losses: list[float] = field(default_factory=list[float], init=False)

    def see(self, tensors: Arrays, batch: Batch) -> None:
        """Count one sample in."""
        assert batch.samples == 1, self.op.name
        unfolded = drawn_columns(self.op, self._numbers(tensors), SHARE_POINTS, self.key, batch)
        unfolded = unfolded.reshape(1, -1, *unfolded.shape[2:])
        self.losses += errors(unfolded, consumer_taps(self.op), self.dropped, self.mean_squares).tolist()
        self.samples += 1

    def sum(self) -> SampleSum:
        """Return the sum of the errors, (1,)."""
        return SampleSum(np.array([sum(self.losses)]), self.samples)
