"""Measure prunability: how little of a model can be kept without harm, group by group and as a whole."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from onnxpfp.allocation.prunability import Prunability, read_curve
from onnxpfp.api.keywords import PROGRESS, documented, keywords
from onnxpfp.api.weight_prunability import NOISE, largest_loss, measure_weights
from onnxpfp.comparison.evaluator import Evaluator
from onnxpfp.comparison.labelled import LabelledEvaluator
from onnxpfp.data.labels import labels_of, read_labels
from onnxpfp.data.sources import SampleSource
from onnxpfp.data.splits import Split
from onnxpfp.errors import ModelError, TargetUnreachableError
from onnxpfp.linear.describe import linear_ops
from onnxpfp.model.load import ModelSource
from onnxpfp.options.prunability import PrunabilityOptions
from onnxpfp.pipeline.calibration import RefitCalibration
from onnxpfp.pipeline.context import RunContext, open_run
from onnxpfp.pipeline.costs import mac_model
from onnxpfp.pipeline.group_trials import GroupTrial, measure_group_trials
from onnxpfp.pipeline.lossless_step import LosslessStep
from onnxpfp.pipeline.network_steps import MeasuredPart, least_share, measure_whole, prune_network
from onnxpfp.pipeline.nothing_to_prune import require_groups_for_prunability
from onnxpfp.pipeline.parts import NetworkPart, open_parts
from onnxpfp.pipeline.prunability_curves import Point, group_points, network_points, shares_down_to
from onnxpfp.pipeline.refit_problem import grams_of
from onnxpfp.pipeline.requirements import (
    PRUNABILITY_HOLDS_OUT,
    require_data_for_prunability,
    require_split,
)
from onnxpfp.pipeline.scoring import calibrate_for_refits
from onnxpfp.pipeline.steps import begin_scored
from onnxpfp.progress import Progress
from onnxpfp.report.draws import draws_notes
from onnxpfp.report.inspection import NodeName
from onnxpfp.report.prunability import GroupPrunability, PrunabilityReport
from onnxpfp.report.weight_prunability import WeightPrunabilityReport
from onnxpfp.runtime.blas import one_blas_thread
from onnxpfp.runtime.session import custom_ops

__all__ = ["PrunabilityArguments", "prunability", "prunability_with"]

TOO_SELDOM = "it runs too seldom on these samples to hold some out"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PrunabilityArguments(PrunabilityOptions):
    """Keywords of `prunability`: the options, and what only programs give."""

    calibration: SampleSource | None = field(metadata=documented("Samples, as in `onnxpfp.prune`."))
    progress: Progress | None = field(default=None, metadata=documented(PROGRESS))


@keywords(PrunabilityArguments)
def prunability(model: ModelSource, arguments: PrunabilityArguments) -> PrunabilityReport | WeightPrunabilityReport:
    """Measure how little of a model can be kept: of its channels, or of its single weights.

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
) -> PrunabilityReport | WeightPrunabilityReport:
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
    with custom_ops(asked.custom_ops), one_blas_thread():
        if asked.measure == "weights":
            return measure_weights(model, calibration, asked, progress)
        return _measure(model, calibration, asked, progress)


def _measure(
    model: ModelSource, calibration: SampleSource | None, asked: PrunabilityOptions, progress: Progress | None
) -> PrunabilityReport:
    context = open_run(model, calibration, asked.pruning(), [PRUNABILITY_HOLDS_OUT], progress=progress)
    clock, network = context.clock, open_parts(context)
    require_groups_for_prunability(network)
    split = require_split(context.data, PRUNABILITY_HOLDS_OUT)
    with clock.phase("network"):
        evaluator = _evaluator(context)
        # Nothing diverges from itself.
        measured, whole = evaluator, 0.0
        if asked.labels is not None:
            measured = LabelledEvaluator.of(evaluator, labels_of(evaluator.samples, read_labels(asked.labels)))
            whole = measured.loss(context.whole.source.model)
    parts = [_measured(part) for part in network.parts]
    if not any(each.part.prunable for each in parts):
        raise TargetUnreachableError(f"{context.whole.source.title}: {TOO_SELDOM}", hint="give more unlabelled samples")
    trials = [_group_trials(each) for each in parts]
    shares = shares_down_to(least_share(parts))
    with clock.phase("network") as phase:
        prune = partial(prune_network, network=network, parts=parts)
        points = network_points(context, parts, prune, measured.loss, whole, shares, phase)
    full = sum(each.full for each in parts)
    curves = [
        group_points(mac_model(each.measured.analysis), of_groups, each.full / full)
        for each, of_groups in zip(parts, trials, strict=True)
    ]
    return _report(context, parts, split, evaluator, measured.losses, points, curves, asked)


def _measured(part: NetworkPart) -> MeasuredPart:
    """Measure a part with samples that are held out; one that has too few of them stays."""
    whole, split = part.context.whole, part.context.data.split
    if not part.prunable:
        return measure_whole(part)
    if split is None:
        return measure_whole(replace(part, stays=TOO_SELDOM))
    with part.context.clock.phase("calibration"):
        ops = linear_ops(whole)
        scored = calibrate_for_refits(part.context, whole, ops, split)
    measured = begin_scored(part.context, whole, ops, scored, {}).towards(part.context)
    return MeasuredPart(part, LosslessStep.nothing(whole), measured)


def _evaluator(context: RunContext) -> Evaluator:
    """Return what runs the original on the samples that are held out.

    Raises:
        ModelError: It has no output that could drift.
    """
    held_out = context.data.held_out
    assert held_out is not None, "what is split has samples held out, unless others are given"
    evaluator = context.evaluator(held_out)
    if not evaluator.losses:
        raise ModelError(f"{context.whole.source.title}: none of its outputs is a tensor of numbers, so none can drift")
    return evaluator


def _group_trials(each: MeasuredPart) -> tuple[GroupTrial, ...]:
    """Narrow every group of a part alone; the Gram matrices may not be there yet, where they decide nothing else."""
    context, measured, calibration = each.part.context, each.measured, each.measured.calibration
    if not isinstance(calibration, RefitCalibration) or not each.part.prunable:
        return ()
    if context.compensation == "lstsq" and not calibration.grams:
        with context.clock.phase("calibration") as phase:
            calibration = replace(calibration, grams=grams_of(calibration.setup, phase))
    with context.clock.phase("groups") as phase:
        return measure_group_trials(context, measured, calibration, phase)


def _report(
    context: RunContext,
    parts: Sequence[MeasuredPart],
    split: Split,
    evaluator: Evaluator,
    network_losses: Mapping[str, str],
    points: tuple[Point, ...],
    curves: Sequence[Sequence[tuple[Point, ...]]],
    asked: PrunabilityOptions,
) -> PrunabilityReport:
    """Put together what was measured, and how."""
    source = context.whole.source
    scored = next(each for each in parts if each.part.prunable)
    pairs = zip(parts, curves, strict=True)
    groups = [group for each, of_groups in pairs for group in _groups(each, of_groups, asked.tolerance)]
    limit = asked.tolerance if asked.labels is None else largest_loss(points[0].loss, asked.beta)
    stay = [f"{each.part.place} stays: {each.part.stays}" for each in parts if each.part.stays]
    return PrunabilityReport(
        file=str(source.path) if source.path else None,
        inputs=dict(context.whole.shapes.inputs),
        tolerance=asked.tolerance,
        losses=evaluator.losses,
        network_losses=network_losses,
        network_limit=limit,
        score=scored.measured.calibration.scores.method,
        select=context.options.select,
        allocate=context.allocation,
        alignment=context.alignment,
        compensate=context.compensation,
        compensate_groups="lstsq" if context.compensation == "lstsq" else "none",
        samples=len(split.fit),
        samples_groups=len(split.tuning),
        samples_network=len(evaluator.samples),
        macs=round(sum(each.full for each in parts)),
        network=_read(points, limit),
        curve=points,
        groups=tuple(sorted(groups, key=_robustness)),
        providers=evaluator.providers,
        seconds=dict(context.clock.seconds),
        notes=(*_notes(context, evaluator), *stay),
    )


def _notes(context: RunContext, evaluator: Evaluator) -> Iterator[str]:
    yield from context.whole.source.notes
    if context.data.given == "random":
        yield NOISE
    yield from context.data.notes
    yield from draws_notes(context.whole.model)
    if evaluator.picks.in_place is not None:
        yield f"the loss is measured at {evaluator.picks.in_place}"


def _read(points: Sequence[Point], tolerance: float) -> Prunability:
    return read_curve([point.share for point in points], [point.loss for point in points], tolerance)


def _groups(each: MeasuredPart, curves: Sequence[tuple[Point, ...]], tolerance: float) -> Iterator[GroupPrunability]:
    if not curves:
        return
    graph = each.part.context.whole.graph
    for group, points in zip(graph.groups, curves, strict=True):
        yield GroupPrunability(
            name=each.part.analyzed.named(group.name),
            channels=int(group.channels.size),
            consumers=tuple(NodeName(graph.consumers[c].op, graph.consumers[c].name) for c in group.consumers),
            prunability=_read(points, tolerance),
            curve=points,
        )


def _robustness(group: GroupPrunability) -> tuple[float, float]:
    """Order groups by what they can lose; a loss that is no number is the worst."""
    area = group.prunability.area
    return -group.prunability.smallest, -math.inf if math.isnan(area) else -area
