"""How little of a model can be kept without harm, group by group and as a whole; nothing is written."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from onnx import ModelProto

from onnxpfp.budget.prunability import Prunability, prunability
from onnxpfp.calibrate import Source as DataSource
from onnxpfp.config import DEFAULT_WORKSPACE, Options
from onnxpfp.errors import CalibrationError, ModelError, OptionError, TargetUnreachableError
from onnxpfp.inspection import NodeName
from onnxpfp.model.load import load
from onnxpfp.pipeline.clock import Clock, Progress
from onnxpfp.pipeline.cost import mac_model
from onnxpfp.pipeline.decide import full_cost, selector_of
from onnxpfp.pipeline.gather import SHARE, split_of
from onnxpfp.pipeline.narrow import Course, Level, weighed
from onnxpfp.pipeline.narrowing import Narrowing, narrowings
from onnxpfp.pipeline.prepare import Prepared, open_model, prepare, read_data
from onnxpfp.pipeline.prunability import Judge, Point, group_points, network_points, shares_down_to
from onnxpfp.pipeline.study import grams_of
from onnxpfp.pipeline.within import least_share
from onnxpfp.report.sensitivity import GroupSensitivity, Sensitivity

__all__ = ["DEFAULT_TOLERANCE", "GroupSensitivity", "Sensitivity", "sensitivity", "sensitivity_with"]

DEFAULT_TOLERANCE = 0.05
"""Loss that counts as no harm."""

_RANDOM = "RANDOM data: the losses are those of noise, not of your inputs; use this to try things out"


def sensitivity(
    model: ModelProto | str | os.PathLike[str],
    *,
    calibration: DataSource,
    tolerance: float = DEFAULT_TOLERANCE,
    select: Literal["deterministic", "sampled", "mixed", "auto"] = "auto",
    score: str = "pfp",
    allocate: Literal["bound", "measured", "uniform"] | None = None,
    kernel: Literal["sum", "max"] = "sum",
    compensate: Literal["auto", "lstsq", "bias", "none"] = "auto",
    delta: float = 1e-16,
    seed: int = 0,
    threads: int | None = None,
    workspace: int = DEFAULT_WORKSPACE,
    providers: str = "cpu",
    strict_providers: bool = False,
    round_to: int | None = None,
    min_channels: int = 1,
    attention: Literal["heads", "width"] = "heads",
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    samples: int | None = None,
    batch_size: int | None = None,
    input_shapes: Mapping[str, tuple[int, ...]] | None = None,
    progress: Progress | None = None,
) -> Sensitivity:
    """Measure how little of a model can be kept.

    Args:
        model: A path or a model object; it is not changed.
        calibration: Unlabelled samples, as in `onnxpfp.prune`.
        tolerance: Largest loss that counts as no harm: the KL divergence of class scores, the relative squared error
            of every other float output, added up.
        select: As the fields of the same name in `onnxpfp.config.Options`, like all below.
        score: See `Options`.
        allocate: See `Options`.
        kernel: See `Options`.
        compensate: See `Options`.
        delta: See `Options`.
        seed: See `Options`.
        threads: See `Options`.
        workspace: See `Options`.
        providers: See `Options`.
        strict_providers: See `Options`.
        round_to: See `Options`.
        min_channels: See `Options`.
        attention: See `Options`.
        include: See `Options`.
        exclude: See `Options`.
        samples: See `Options`.
        batch_size: See `Options`.
        input_shapes: See `Options`.
        progress: Told how far it is.

    Raises:
        OnnxPfpError: Something is wrong with the model, the data or the options; its children in `onnxpfp.errors` say
            which.
    """
    options = Options(
        select=select,
        score=score,
        allocate=allocate,
        kernel=kernel,
        compensate=compensate,
        delta=delta,
        seed=seed,
        threads=threads,
        workspace=workspace,
        providers=providers,
        strict_providers=strict_providers,
        round_to=round_to,
        min_channels=min_channels,
        attention=attention,
        include=tuple(include),
        exclude=tuple(exclude),
        samples=samples,
        batch_size=batch_size,
        input_shapes=input_shapes or {},
    )
    return sensitivity_with(model, calibration, options, tolerance=tolerance, progress=progress)


def sensitivity_with(
    model: ModelProto | str | os.PathLike[str],
    calibration: DataSource | None,
    options: Options,
    *,
    tolerance: float,
    progress: Progress | None = None,
) -> Sensitivity:
    """Measure how little of a model can be kept, with validated options; the command line comes in here.

    Args:
        model: A path or a model object.
        calibration: Samples; None is refused.
        options: How to prune; a target in it has no meaning.
        tolerance: Largest loss that counts as no harm.
        progress: Told how far it is.

    Raises:
        OnnxPfpError: As in `sensitivity`.
    """
    _refuse(calibration, options, tolerance)
    clock = Clock(progress) if progress else Clock()
    with clock.phase("load"):
        source = load(model)
        session, requests = open_model(source, options)
        data = read_data(source, session, calibration, options)
    prepared = prepare(source, data, options, clock)
    _refuse_if_nothing(prepared)
    split = split_of(data, options.seed)
    course = Course(data, split, requests, options, None, full_cost(prepared, options), clock)
    with clock.phase("network"):
        judge = _judge(prepared, course)
    level = weighed(course, prepared)
    narrowed = _narrowed(level, course)
    cost = mac_model(prepared.source.model, prepared.graph, prepared.shapes)
    shares = shares_down_to(least_share(level, course))
    with clock.phase("network") as tell:
        points = network_points(level, course, cost, judge, shares, tell)
    return _told(level, course, judge, points, group_points(cost, _sizes(prepared), narrowed), tolerance)


def _refuse(calibration: DataSource | None, options: Options, tolerance: float) -> None:
    """Refuse what cannot be meant, before anything is read.

    Raises:
        OptionError: There are no data, or an option has no meaning.
    """
    if calibration is None:
        raise OptionError(
            "the sensitivity is how far the output drifts on data, and none are given",
            hint="give --calib-data FILE.npz",
        )
    if not (math.isfinite(tolerance) and tolerance > 0):
        raise OptionError(f"--tolerance {tolerance:g} must be above 0", hint="--tolerance 0.05 is the default")
    if options.steps > 1:
        raise OptionError(
            f"--steps {options.steps} has no meaning here: every share is pruned in one step from the original"
        )


def _refuse_if_nothing(prepared: Prepared) -> None:
    if not prepared.graph.groups:
        raise TargetUnreachableError(
            f"{prepared.source.title}: nothing in it can be pruned", hint="`onnxpfp inspect` says why"
        )


def _judge(prepared: Prepared, course: Course) -> Judge:
    """Run the original on the samples that are held out.

    Raises:
        CalibrationError: There are too few samples for that.
        ModelError: It has no output that could drift.
    """
    if course.split.held_out is None:
        raise CalibrationError(
            f"the sensitivity is measured on samples that are held out, which takes {SHARE} samples, and "
            f"{len(course.data.samples)} are given",
            hint="give more unlabelled samples",
        )
    judge = Judge.of(prepared.source.model, course.split.held_out, course)
    if not judge.losses:
        raise ModelError(f"{prepared.source.title}: none of its outputs is a tensor of numbers, so none can drift")
    return judge


def _narrowed(level: Level, course: Course) -> tuple[Narrowing, ...]:
    """Narrow every group alone; the Gram matrices may not be there yet, where they decide nothing else."""
    evidence, grams = level.evidence, level.evidence.grams
    assert evidence.study is not None
    refitted = course.options.compensation(evidence.known) == "lstsq"
    if refitted and not grams:
        with course.clock.phase("calibration") as tell:
            grams = grams_of(evidence.study, tell)
    with course.clock.phase("groups") as tell:
        selector = selector_of(level.prepared, evidence, level.places, course.options)
        return narrowings(selector, evidence.study.setting, grams, refitted=refitted, tell=tell)


def _told(
    level: Level,
    course: Course,
    judge: Judge,
    points: tuple[Point, ...],
    curves: Sequence[tuple[Point, ...]],
    tolerance: float,
) -> Sensitivity:
    """Put together what was measured, and how."""
    source, options, split, evidence = level.prepared.source, course.options, course.split, level.evidence
    assert evidence.scores is not None
    assert split.tuning is not None
    compensate = options.compensation(evidence.known)
    notes = [_RANDOM] if evidence.known == "random" else []
    return Sensitivity(
        file=str(source.path) if source.path else None,
        inputs=dict(level.prepared.shapes.inputs),
        tolerance=tolerance,
        losses=judge.losses,
        score=evidence.scores.method,
        select=options.select,
        allocate=options.allocation(evidence.known),
        compensate=compensate,
        compensate_groups="lstsq" if compensate == "lstsq" else "none",
        samples=len(split.fit),
        samples_groups=len(split.tuning),
        samples_network=len(judge.samples),
        macs=course.full,
        network=_read(points, tolerance),
        curve=points,
        groups=_groups(level.prepared, curves, tolerance),
        providers=judge.providers,
        seconds=dict(course.clock.seconds),
        notes=tuple(notes),
    )


def _sizes(prepared: Prepared) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.array([group.channels.size for group in prepared.graph.groups], np.int64)


def _read(points: Sequence[Point], tolerance: float) -> Prunability:
    return prunability([point.share for point in points], [point.loss for point in points], tolerance)


def _groups(prepared: Prepared, curves: Sequence[tuple[Point, ...]], tolerance: float) -> tuple[GroupSensitivity, ...]:
    """Put the most fragile first."""
    consumers = prepared.graph.consumers
    found = [
        GroupSensitivity(
            name=group.name,
            channels=int(group.channels.size),
            consumers=tuple(NodeName(consumers[c].op, consumers[c].name) for c in group.consumers),
            prunability=_read(points, tolerance),
            curve=points,
        )
        for group, points in zip(prepared.graph.groups, curves, strict=True)
    ]
    return tuple(sorted(found, key=_robustness))


def _robustness(group: GroupSensitivity) -> tuple[float, float]:
    """Order groups by what they can lose; a loss that is no number is the worst."""
    area = group.prunability.area
    return -group.prunability.smallest, -math.inf if math.isnan(area) else -area
