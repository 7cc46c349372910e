"""Bounds of the error that a choice of channels makes in a layer, by held-out samples, whatever ranked the channels.

What a consumer loses by the choice, of all groups that it reads, is an error L(x) in [0, 1] for every input x: the mean
of its squared errors, each at most its output's mean square, as a share of these mean squares
(`onnxpfp.score.output_moments`). The mean squares are of samples to fit; ranking, widths and draws are of these, of
the tuning samples and of the seed. The held-out samples are independent of them, so their L(x) are independent draws,
and `mean_bound` holds for E L(x). A group may have r consumers: with alpha / r for each, all r bounds hold at once with
probability 1 - alpha.

Where a target of quality is searched for, the held-out samples choose among m prunings that the other samples have
fixed (`onnxpfp.allocation.fixed_sequence`): with alpha / (m r) for each of them at each consumer all hold at once,
and with them those of the pruning that was chosen. What is printed is the square root of the largest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from onnxpfp.arrays import Arrays, Floats
from onnxpfp.calibrate.batch_size import choose_batch
from onnxpfp.calibrate.observer import Batch
from onnxpfp.calibrate.sample_views import needs_of
from onnxpfp.calibrate.statistics import SampleSum
from onnxpfp.comparison.certificate import mean_bound
from onnxpfp.linear.ops import LinearOp
from onnxpfp.pipeline.calibration import DataCalibration, Measured
from onnxpfp.pipeline.context import RunContext
from onnxpfp.pipeline.measurements import (
    SHARE_POINTS,
    InputObserver,
    Measurements,
    SquareObserver,
    consumer_taps,
    drawn_columns,
)
from onnxpfp.pipeline.sample_rows import rows_of_samples
from onnxpfp.pipeline.selector import Decision
from onnxpfp.runtime.heap import trim_heap
from onnxpfp.score.output_moments import errors

__all__ = ["UNIT_SAMPLES", "ErrorObserver", "bounded", "square_observers", "squares_key"]

UNIT_SAMPLES = 256
"""Samples to fit that the mean squares are of, which errors are a share of: the bound holds with any number of them."""


def square_observers(context: RunContext, ops: Sequence[LinearOp]) -> dict[int, SquareObserver]:
    """Start to measure the mean squares of all consumers whose errors may be bounded, by their positions.

    Whether a group is cut is not known yet, but another run of the network would take longer than what this adds.

    Args:
        context: What is asked for.
        ops: The consumers, in the order of the graph.
    """
    if context.options.steps > 1 or not context.chooses:
        return {}
    bounded = [position for position, op in enumerate(ops) if not _why_not(context, [op])]
    return {
        position: SquareObserver(ops[position], squares_key(context, position), UNIT_SAMPLES) for position in bounded
    }


def squares_key(context: RunContext, position: int) -> tuple[int, int]:
    """Return what sets the draws at a consumer apart from those of others."""
    return context.options.seed, position


def bounded(context: RunContext, measured: Measured, decision: Decision, candidates: int) -> Decision:
    """Give the selections of a choice the bounds that the held-out samples have of their errors, or say why not.

    Args:
        context: What is asked for.
        measured: The model that was chosen from.
        decision: The choice; one that was made in several steps is left as it is.
        candidates: Of so many choices the held-out samples have taken one.
    """
    if context.options.steps > 1:
        return decision
    groups, selections = measured.analysis.graph.groups, [*decision.selections]
    cut: list[int] = []
    for number, selection in enumerate(selections):
        if selection is None or selection.keep.all():
            continue
        why = _why_not(context, [measured.ops[position] for position in groups[number].consumers])
        selections[number] = replace(selection, no_choice_error=why)
        cut += [] if why else [number]
    readers = sorted({position for number in cut for position in groups[number].consumers})
    losses = _losses(context, measured, decision, readers) if readers else {}
    alpha = (1.0 - context.options.confidence) / candidates
    for number in cut:
        positions, selection = groups[number].consumers, selections[number]
        assert selection is not None
        bounds = [mean_bound(losses[position], alpha / len(positions)) for position in positions]
        selections[number] = replace(selection, choice_error=float(np.sqrt(max(bounds))))
    return replace(decision, selections=tuple(selections))


def _why_not(context: RunContext, consumers: Sequence[LinearOp]) -> str:
    """Say why the errors of a group are not bounded by held-out samples; nothing where they are."""
    data = context.data
    if data.no_promise:
        return data.no_promise
    if (data.samples.fixed_batch or 1) > 1:
        return "samples run in batches of a fixed size, so the error of each is not known"
    products = [op.name for op in consumers if op.weight is None]
    return f"{products[0]} multiplies two activations, where no error is measured" if products else ""


def _losses(context: RunContext, measured: Measured, decision: Decision, readers: Sequence[int]) -> dict[int, Floats]:
    """Return the errors of some consumers on the held-out samples, (N,), by position."""
    held_out, calibration = context.data.held_out, measured.calibration
    assert held_out is not None
    assert isinstance(calibration, DataCalibration)
    ops = [measured.ops[position] for position in readers]
    keys = [squares_key(context, position) for position in readers]
    lost = [1.0 - decision.factor[op.channels] for op in ops]
    units = [calibration.mean_squares[position] for position in readers]
    errors_of = [*map(ErrorObserver, ops, keys, lost, units)]
    with context.clock.phase("ranking") as progress:
        size = choose_batch(needs_of(errors_of), held_out, context.batch_limit, context.options.workspace)
        run = Measurements(measured.analysis, ops, held_out, size, context.requests, context.options, progress)
        # One by one where it is not known what of a tensor is of which sample.
        run = run if rows_of_samples(run) else replace(run, batch_size=1)
        run.run(errors_of)
        trim_heap()
    return {position: np.array(each.losses) for position, each in zip(readers, errors_of, strict=True)}


@dataclass(slots=True, eq=False)
class ErrorObserver(InputObserver):
    """Measures the error of a consumer that loses something of its channels, for each sample alone.

    Attributes:
        key: What sets its draws of positions apart from those of others.
        lost: What of every index is lost, (C,): 1 of those that go, 1 - f of those that are multiplied by f.
        mean_squares: Mean square of every output, (g, O/g).
        losses: The error of every sample so far.
    """

    key: tuple[int, ...]
    lost: Floats
    mean_squares: Floats
    losses: list[float] = field(default_factory=list[float], init=False)

    def see(self, tensors: Arrays, batch: Batch) -> None:
        """Count one sample in, or several that lie one after the other along the first axis."""
        unfolded = drawn_columns(self.op, self.op.numbers(tensors), SHARE_POINTS, self.key, batch)
        unfolded = unfolded.reshape(batch.samples, -1, *unfolded.shape[2:])
        # An error that is no number counts in full: samples that decide nothing must not stop a run.
        finite, losses = np.isfinite(unfolded).all((1, 2, 3)), np.ones(batch.samples)
        losses[finite] = errors(unfolded[finite], consumer_taps(self.op), self.lost, self.mean_squares)
        self.losses += losses.tolist()
        self.samples += batch.samples

    def sum(self) -> SampleSum:
        """Return the sum of the errors, (1,)."""
        return SampleSum(np.array([sum(self.losses)]), self.samples)
