"""How little of a model can be kept without harm, group by group and as a whole; nothing is written."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from onnxpfp.allocation.prunability import Prunability, read_curve
from onnxpfp.api.keywords import PROGRESS, ModelSource, documented, keywords
from onnxpfp.channels import Analysis
from onnxpfp.data.sources import SampleSource
from onnxpfp.errors import CalibrationError, ModelError, OptionError, TargetUnreachableError
from onnxpfp.model.load import load
from onnxpfp.options import PrunabilityOptions
from onnxpfp.pipeline.analyze import analyze, open_model, read_data
from onnxpfp.pipeline.costs import mac_model
from onnxpfp.pipeline.decide import full_cost, selector_of
from onnxpfp.pipeline.group_trials import GroupTrial, measure_group_trials
from onnxpfp.pipeline.prunability_curves import Point, group_points, network_points, shares_down_to
from onnxpfp.pipeline.quality_search import least_share
from onnxpfp.pipeline.refit_problem import grams_of
from onnxpfp.pipeline.scoring import SHARE, split_of
from onnxpfp.pipeline.steps import Measured, RunContext, measure
from onnxpfp.progress import Clock, Progress
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
    options, tolerance = asked.pruning(), asked.tolerance
    _refuse(calibration)
    clock = Clock(progress) if progress else Clock()
    with clock.phase("load"):
        source = load(model)
        session, requests = open_model(source, options)
        data = read_data(source, session, calibration, options)
    analysis = analyze(source, data, options, clock)
    _refuse_if_nothing(analysis)
    split = split_of(data, options.seed)
    context = RunContext(data, split, requests, options, None, full_cost(analysis, options), clock)
    with clock.phase("network"):
        evaluator = _evaluator(analysis, context)
    measured = measure(context, analysis)
    narrowed = _narrowed(measured, context)
    cost = mac_model(analysis)
    shares = shares_down_to(least_share(measured, context))
    with clock.phase("network") as tell:
        points = network_points(measured, context, cost, evaluator, shares, tell)
    return _report(measured, context, evaluator, points, group_points(cost, _sizes(analysis), narrowed), tolerance)


def _refuse(calibration: SampleSource | None) -> None:
    """Make sure that there are data, before anything is read.

    Raises:
        OptionError: There are none.
    """
    if calibration is None:
        raise OptionError(
            "prunability is how far the output drifts on data, and none are given",
            hint="give --calib-data FILE.npz",
        )


def _refuse_if_nothing(analysis: Analysis) -> None:
    if not analysis.graph.groups:
        raise TargetUnreachableError(
            f"{analysis.source.title}: nothing in it can be pruned", hint="`onnxpfp inspect` says why"
        )


def _evaluator(analysis: Analysis, context: RunContext) -> Evaluator:
    """Run the original on the samples that are held out.

    Raises:
        CalibrationError: There are too few samples for that.
        ModelError: It has no output that could drift.
    """
    if context.split.held_out is None:
        raise CalibrationError(
            f"prunability is measured on samples that are held out, which takes {SHARE} samples, and "
            f"{len(context.data.samples)} are given",
            hint="give more unlabelled samples",
        )
    evaluator = context.evaluator(analysis.source.model, context.split.held_out)
    if not evaluator.losses:
        raise ModelError(f"{analysis.source.title}: none of its outputs is a tensor of numbers, so none can drift")
    return evaluator


def _narrowed(measured: Measured, context: RunContext) -> tuple[GroupTrial, ...]:
    """Narrow every group alone; the Gram matrices may not be there yet, where they decide nothing else."""
    calibration, grams = measured.calibration, measured.calibration.grams
    assert calibration.setup is not None
    refitted = context.options.compensation(calibration.known) == "lstsq"
    if refitted and not grams:
        with context.clock.phase("calibration") as tell:
            grams = grams_of(calibration.setup, tell)
    with context.clock.phase("groups") as tell:
        selector = selector_of(measured.analysis, calibration, measured.places, context.options)
        return measure_group_trials(selector, calibration.setup.problem, grams, refitted=refitted, tell=tell)


def _report(
    measured: Measured,
    context: RunContext,
    evaluator: Evaluator,
    points: tuple[Point, ...],
    curves: Sequence[tuple[Point, ...]],
    tolerance: float,
) -> PrunabilityReport:
    """Put together what was measured, and how."""
    source, options, split, calibration = measured.analysis.source, context.options, context.split, measured.calibration
    assert calibration.scores is not None
    assert split.tuning is not None
    compensate = options.compensation(calibration.known)
    notes = [_RANDOM] if calibration.known == "random" else []
    return PrunabilityReport(
        file=str(source.path) if source.path else None,
        inputs=dict(measured.analysis.shapes.inputs),
        tolerance=tolerance,
        losses=evaluator.losses,
        score=calibration.scores.method,
        select=options.select,
        allocate=options.allocation(calibration.known),
        compensate=compensate,
        compensate_groups="lstsq" if compensate == "lstsq" else "none",
        samples=len(split.fit),
        samples_groups=len(split.tuning),
        samples_network=len(evaluator.samples),
        macs=context.full,
        network=_read(points, tolerance),
        curve=points,
        groups=_groups(measured.analysis, curves, tolerance),
        providers=evaluator.providers,
        seconds=dict(context.clock.seconds),
        notes=tuple(notes),
    )


def _sizes(analysis: Analysis) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.array([group.channels.size for group in analysis.graph.groups], np.int64)


def _read(points: Sequence[Point], tolerance: float) -> Prunability:
    return read_curve([point.share for point in points], [point.loss for point in points], tolerance)


def _groups(analysis: Analysis, curves: Sequence[tuple[Point, ...]], tolerance: float) -> tuple[GroupPrunability, ...]:
    """Put the most fragile first."""
    consumers = analysis.graph.consumers
    found = [
        GroupPrunability(
            name=group.name,
            channels=int(group.channels.size),
            consumers=tuple(NodeName(consumers[c].op, consumers[c].name) for c in group.consumers),
            prunability=_read(points, tolerance),
            curve=points,
        )
        for group, points in zip(analysis.graph.groups, curves, strict=True)
    ]
    return tuple(sorted(found, key=_robustness))


def _robustness(group: GroupPrunability) -> tuple[float, float]:
    """Order groups by what they can lose; a loss that is no number is the worst."""
    area = group.prunability.area
    return -group.prunability.smallest, -math.inf if math.isnan(area) else -area
