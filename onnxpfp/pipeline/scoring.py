"""Calibration and scoring: statistics of the linear ops, and scores of channels, from data or weights alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from onnxpfp.arrays import Floats
from onnxpfp.calibrate.collect import calibrate
from onnxpfp.calibrate.observer import Observer
from onnxpfp.calibrate.statistics import Statistics
from onnxpfp.channels import Analysis
from onnxpfp.data.samples import Samples
from onnxpfp.data.splits import Split
from onnxpfp.linear.ops import LinearOp, output_counts
from onnxpfp.options import Options
from onnxpfp.pipeline.calibration import Calibration, DataCalibration, RefitCalibration
from onnxpfp.pipeline.choice_bounds import square_observers
from onnxpfp.pipeline.context import RunContext
from onnxpfp.pipeline.criteria import criterion_for, criterion_of
from onnxpfp.pipeline.criterion_scores import GramsOfGroup, criterion_scores
from onnxpfp.pipeline.features import Features, measure_features
from onnxpfp.pipeline.measurements import Measurements, SquareObserver
from onnxpfp.pipeline.merging import MergeMaps
from onnxpfp.pipeline.refit_problem import consumer_grams, refit_setup, start_gram_observers
from onnxpfp.pipeline.worst_case import QUADRANTS, WorstCase
from onnxpfp.refit.gram import observed_grams
from onnxpfp.runtime.heap import trim_heap
from onnxpfp.score.coreset import CoresetShare
from onnxpfp.score.energy import Energy
from onnxpfp.score.pfp import K, Pfp, sample_failure, sample_size, upper_envelope
from onnxpfp.score.scores import Scores

__all__ = ["calibrate_and_score", "calibrate_for_refits"]


def _outputs(ops: Sequence[LinearOp]) -> list[int]:
    """Return the outputs of every op for one input, which the size of S is made of."""
    return [math.prod(output_counts(op)) for op in ops]


def _measure(
    context: RunContext, analysis: Analysis, ops: Sequence[LinearOp], observers: Sequence[Observer] = ()
) -> Statistics:
    """Measure the linear ops on all samples that are not held out: on fewer, a channel that rarely fires is silent.

    Where a file has the scores, it has been done.
    """
    options, data = context.options, context.data
    if context.scores is not None:
        return context.scores.taken(ops, observers)
    with context.clock.phase("calibration") as progress:
        return calibrate(
            analysis.model,
            ops,
            data.fit,
            kernel=options.entries,
            batch_size=context.batch_limit,
            providers=context.requests,
            threads=options.threads,
            workspace_bytes=options.workspace,
            progress=progress,
            observers=observers,
        )


def _group_terms(
    analysis: Analysis, ops: Sequence[LinearOp], delta: float
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return per group the outputs under the bound, and the log term ln(8 (P + 1) k / delta)."""
    outputs: list[int] = []
    weights: list[float] = []
    for group in analysis.graph.groups:
        total, largest = 0, 1
        for position in group.consumers:
            channels, patches = output_counts(ops[position])
            total += channels * patches * QUADRANTS
            largest = max(largest, (patches + 1) * ops[position].kernel_size)
        outputs.append(max(1, total))
        weights.append(math.log(8 * largest) - math.log(delta))
    return np.array(outputs, np.int64), np.array(weights, np.float64)


def _constants(analysis: Analysis, ops: Sequence[LinearOp], kernel: str) -> NDArray[np.float64]:
    """Return per group what its sensitivities are multiplied by in its bound: K, times the entries of a channel.

    A share of the largest single entry is at least that of the channel over the number of its entries under one output.
    """
    if kernel == "sum":
        return np.full(len(analysis.graph.groups), float(K))
    entries = np.ones(analysis.graph.count + 1)
    for op in ops:
        blocks = op.block_table(single=False)
        np.maximum.at(entries, blocks.channels, np.diff(blocks.starts) * float(op.kernel_size))
    return np.array([K * entries[group.channels].max() for group in analysis.graph.groups], np.float64)


def _score_with_data(
    context: RunContext,
    analysis: Analysis,
    ops: Sequence[LinearOp],
    scored: Samples,
    statistics: Statistics,
    grams_of_group: GramsOfGroup | None = None,
) -> tuple[Scores, tuple[MergeMaps, ...]]:
    """Turn the statistics of the ops into scores, and measure on the scored samples what else the criterion needs.

    Returns:
        The scores, and what merging needs to know.
    """
    graph, options = analysis.graph, context.options
    with context.clock.phase("ranking") as progress:
        size, requests = context.data.batch_size, context.requests
        criterion, measurements, features = criterion_for(options), None, Features()
        if context.data.given != "none":
            measurements = Measurements(analysis, ops, scored, size, requests, options, progress)
            features = measure_features(context, criterion, measurements)
        if context.plan is not None:
            return Scores.nothing(graph.count), features.merging
        worst_case = WorstCase.of(criterion, analysis, options, measurements)
        outputs, weight = _group_terms(analysis, ops, options.delta)
        parts = [(statistics[op.name].channels, statistics[op.name].sensitivity) for op in ops]
        sensitivity = upper_envelope(parts, graph.count)
        score = partial(
            criterion_scores,
            analysis=analysis,
            ops=ops,
            measurements=measurements,
            seed=options.seed,
            statistics=statistics,
            sensitivity=sensitivity,
            grams_of_group=grams_of_group,
            feature_maps=features.maps,
            reach=worst_case.reach,
        )
        energy = score(Energy())
        values = energy if criterion.name == Energy.name else score(criterion)
        constant = _constants(analysis, ops, options.entries)
        scores = Scores(
            *(criterion.name, values, energy, outputs, weight, constant, ("",) * len(graph.groups)),
            widths=features.widths,
            closest=features.closest,
        )
        if not isinstance(criterion, Pfp):
            scores = worst_case.told(scores, criterion)
        return scores, features.merging


def _score_without_data(analysis: Analysis, ops: Sequence[LinearOp], options: Options) -> Scores:
    """Score by weights alone; the bounds count both signs of every activation."""
    criterion = criterion_for(options)
    criterion = CoresetShare() if isinstance(criterion, Pfp) else criterion
    outputs, weight = _group_terms(analysis, ops, options.delta)
    worst_case = WorstCase.of(criterion, analysis, options)
    values = criterion_scores(criterion, analysis, ops, None, seed=options.seed, reach=worst_case.reach)
    scores = Scores(criterion.name, values, None, outputs, weight, np.zeros(len(outputs)), ())
    return worst_case.told(scores, criterion)


def calibrate_and_score(context: RunContext, analysis: Analysis, ops: tuple[LinearOp, ...]) -> Calibration:
    """Measure the linear ops of a model and score its channels, as far as the data go."""
    data, count = context.data, analysis.graph.count
    if data.given == "none" and context.scores is None:
        with context.clock.phase("ranking"):
            scores = Scores.nothing(count) if context.plan else _score_without_data(analysis, ops, context.options)
        return Calibration(scores, data.samples)
    if not ops:
        # Nothing can go: a plan that keeps everything, or a target of 1.
        return DataCalibration(Scores.nothing(count), data.fit, 0, None, {}, {})
    squares = square_observers(context, ops)
    if context.layerwise:
        # No sample is run: what is fitted by is in the file.
        return calibrate_for_refits(context, analysis, ops, Split(data.samples, data.samples), squares)
    if data.split is not None:
        return calibrate_for_refits(context, analysis, ops, data.split, squares)
    statistics = _measure(context, analysis, ops, [*squares.values()])
    scores, merging = _score_with_data(context, analysis, ops, data.fit, statistics)
    size = _size_of_samples(context, ops)
    return DataCalibration(scores, data.fit, *size, statistics, _mean_squares(squares), merge_maps=merging)


def _size_of_samples(context: RunContext, ops: Sequence[LinearOp]) -> tuple[int, float | None]:
    """Return how many samples the formula asks for (docs/design.md, "Size of S"), and the delta of those given."""
    outputs, data = _outputs(ops), context.data
    samples = len(data.fit) if context.scores is None else context.scores.part.samples
    failure = sample_failure(outputs, samples) if data.independent else None
    return sample_size(outputs, context.options.delta), failure


def _mean_squares(observers: Mapping[int, SquareObserver]) -> dict[int, Floats]:
    """Return the mean squares of consumers by position."""
    return {position: observer.sum().mean_squares for position, observer in observers.items()}


def calibrate_for_refits(
    context: RunContext,
    analysis: Analysis,
    ops: tuple[LinearOp, ...],
    split: Split,
    squares: Mapping[int, SquareObserver] | None = None,
) -> RefitCalibration:
    """Measure and score with samples that are held out, so that refits and widths can be decided on them.

    Args:
        context: What is asked for.
        analysis: The model.
        ops: Its consumers.
        split: The samples to fit, and those that decide.
        squares: What measures mean squares of consumers, by their positions; None where errors of a choice are not
            bounded.
    """
    squares = squares or {}
    fit = context.data.fit
    setup = refit_setup(context, analysis, split)
    by_grams = "gram" in criterion_of(context.options.score).needs
    observers = start_gram_observers(setup, fits_only=not by_grams) if _needs_grams(context) else ()
    statistics = _measure(context, analysis, ops, [*observers, *squares.values()])
    trim_heap()
    grams = observed_grams(observers)
    grams_of_group = partial(consumer_grams, setup, grams)
    scores, merging = _score_with_data(context, analysis, ops, fit, statistics, grams_of_group)
    size = _size_of_samples(context, ops)
    return RefitCalibration(scores, fit, *size, statistics, _mean_squares(squares), setup, grams, merge_maps=merging)


def _needs_grams(context: RunContext) -> bool:
    """Tell whether widths or channels are chosen, or layers fitted, by the Gram matrices of the original network."""
    fitted = context.compensation == "lstsq" and (context.allocation == "measured" or context.layerwise)
    return context.plan is None and (fitted or "gram" in criterion_of(context.options.score).needs)
