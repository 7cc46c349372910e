"""Measure prunability: how little of a model can be kept without harm, group by group and as a whole."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from onnxpfp.allocation.prunability import Prunability, read_curve
from onnxpfp.api.keywords import PROGRESS, documented, keywords
from onnxpfp.channels import Analysis
from onnxpfp.data.sources import SampleSource
from onnxpfp.data.splits import Split
from onnxpfp.errors import ModelError
from onnxpfp.linear.describe import linear_ops
from onnxpfp.model.load import ModelSource
from onnxpfp.options import PrunabilityOptions
from onnxpfp.pipeline.calibration import Measured, RefitCalibration
from onnxpfp.pipeline.context import RunContext, open_run
from onnxpfp.pipeline.costs import mac_model
from onnxpfp.pipeline.decide import least_cost
from onnxpfp.pipeline.group_trials import GroupTrial, measure_group_trials
from onnxpfp.pipeline.prunability_curves import Point, group_points, network_points, shares_down_to
from onnxpfp.pipeline.refit_problem import grams_of
from onnxpfp.pipeline.requirements import (
    PRUNABILITY_HOLDS_OUT,
    require_data_for_prunability,
    require_groups_for_prunability,
    require_split,
)
from onnxpfp.pipeline.scoring import calibrate_for_refits
from onnxpfp.pipeline.steps import complete
from onnxpfp.progress import Progress
from onnxpfp.report.inspection import NodeName
from onnxpfp.report.prunability import GroupPrunability, PrunabilityReport
from onnxpfp.verify.evaluator import Evaluator

__all__ = ["PrunabilityArguments", "prunability", "prunability_with"]

_RANDOM = "RANDOM data: the losses are those of noise, not of your inputs; use this to try things out"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PrunabilityArguments(PrunabilityOptions):
    """Keywords of `prunability`: the options, and what only programs give."""

    calibration: SampleSource | None = field(metadata=documented("Unlabelled samples, as in `onnxpfp.prune`."))
    progress: Progress | None = field(default=None, metadata=documented(PROGRESS))


@keywords(PrunabilityArguments)
def prunability(model: ModelSource, arguments: PrunabilityArguments) -> PrunabilityReport:
    """Measure how little of a model can be kept.

    Args:
        model: A path or a model object; it is not changed.
        arguments: Its keywords.

    Raises:
        OnnxPfpError: Something is wrong with the model, the data or the options; its children in `onnxpfp.errors` say
            which.
    """
    return prunability_with(model, arguments.calibration, arguments, progress=arguments.progress)


def prunability_with(
    model: ModelSource,
    calibration: SampleSource | None,
    asked: PrunabilityOptions,
    *,
    progress: Progress | None = None,
) -> PrunabilityReport:
    """Measure how little of a model can be kept, with validated options; the command line comes in here.

    Args:
        model: A path or a model object.
        calibration: Samples; None is refused.
        asked: How to prune, and the largest loss that counts as no harm.
        progress: Told how far it is.

    Raises:
        OnnxPfpError: As in `prunability`.
    """
    require_data_for_prunability(calibration)
    context = open_run(model, calibration, asked.pruning(), [PRUNABILITY_HOLDS_OUT], progress=progress)
    analysis, clock = context.whole, context.clock
    require_groups_for_prunability(analysis)
    split = require_split(context.data, PRUNABILITY_HOLDS_OUT)
    with clock.phase("network"):
        evaluator = _evaluator(context, split)
    with clock.phase("calibration"):
        ops = linear_ops(analysis)
        scored = calibrate_for_refits(context, analysis, ops, split)
    measured = complete(context, analysis, ops, scored)
    trials = _group_trials(context, measured, scored)
    cost = mac_model(analysis)
    shares = shares_down_to(least_cost(context, measured) / context.full)
    with clock.phase("network") as phase:
        points = network_points(context, measured, cost, evaluator, shares, phase)
    return _report(context, measured, split, evaluator, points, group_points(cost, trials), asked.tolerance)


def _evaluator(context: RunContext, split: Split) -> Evaluator:
    """Return what runs the original on the samples that are held out.

    Raises:
        ModelError: It has no output that could drift.
    """
    evaluator = context.evaluator(split.held_out)
    if not evaluator.losses:
        raise ModelError(f"{context.whole.source.title}: none of its outputs is a tensor of numbers, so none can drift")
    return evaluator


def _group_trials(context: RunContext, measured: Measured, calibration: RefitCalibration) -> tuple[GroupTrial, ...]:
    """Narrow every group alone; the Gram matrices may not be there yet, where they decide nothing else."""
    if context.compensation == "lstsq" and not calibration.grams:
        with context.clock.phase("calibration") as phase:
            calibration = replace(calibration, grams=grams_of(calibration.setup, phase))
    with context.clock.phase("groups") as phase:
        return measure_group_trials(context, measured, calibration, phase)


def _report(
    context: RunContext,
    measured: Measured,
    split: Split,
    evaluator: Evaluator,
    points: tuple[Point, ...],
    curves: Sequence[tuple[Point, ...]],
    tolerance: float,
) -> PrunabilityReport:
    """Put together what was measured, and how."""
    source = context.whole.source
    return PrunabilityReport(
        file=str(source.path) if source.path else None,
        inputs=dict(context.whole.shapes.inputs),
        tolerance=tolerance,
        losses=evaluator.losses,
        score=measured.calibration.scores.method,
        select=context.options.select,
        allocate=context.allocation,
        compensate=context.compensation,
        compensate_groups="lstsq" if context.compensation == "lstsq" else "none",
        samples=len(split.fit),
        samples_groups=len(split.tuning),
        samples_network=len(split.held_out),
        macs=context.full,
        network=_read(points, tolerance),
        curve=points,
        groups=_groups(context.whole, curves, tolerance),
        providers=evaluator.providers,
        seconds=dict(context.clock.seconds),
        notes=(_RANDOM,) if context.data.given == "random" else (),
    )


def _read(points: Sequence[Point], tolerance: float) -> Prunability:
    return read_curve([point.share for point in points], [point.loss for point in points], tolerance)


def _groups(analysis: Analysis, curves: Sequence[tuple[Point, ...]], tolerance: float) -> tuple[GroupPrunability, ...]:
    """Put the most fragile first."""
    consumers = analysis.graph.consumers
    groups = [
        GroupPrunability(
            name=group.name,
            channels=int(group.channels.size),
            consumers=tuple(NodeName(consumers[c].op, consumers[c].name) for c in group.consumers),
            prunability=_read(points, tolerance),
            curve=points,
        )
        for group, points in zip(analysis.graph.groups, curves, strict=True)
    ]
    return tuple(sorted(groups, key=_robustness))


def _robustness(group: GroupPrunability) -> tuple[float, float]:
    """Order groups by what they can lose; a loss that is no number is the worst."""
    area = group.prunability.area
    return -group.prunability.smallest, -math.inf if math.isnan(area) else -area
