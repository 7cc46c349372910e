"""What the data, or the weights alone, tell: statistics of the readers, scores of the channels."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from onnxpfp.arrays import Ids
from onnxpfp.calibrate.collect import calibrate
from onnxpfp.calibrate.observer import Observer
from onnxpfp.calibrate.statistics import Statistics
from onnxpfp.channels import Analysis
from onnxpfp.channels.lineage import lifted
from onnxpfp.data.samples import Samples
from onnxpfp.errors import CalibrationError
from onnxpfp.linear.ops import LinearOp, output_counts
from onnxpfp.linear.producers import producers_of
from onnxpfp.options import Known, Options
from onnxpfp.pipeline.analyze import CalibrationData
from onnxpfp.pipeline.criterion_scores import ReadsOfGroup, criterion_scores
from onnxpfp.pipeline.measurements import Measurements
from onnxpfp.pipeline.refit_problem import RefitSetup, group_reads, refit_setup, start_gram_observers
from onnxpfp.progress import Clock, Count
from onnxpfp.refit.gram import Gram, observed_grams
from onnxpfp.runtime.providers import ProviderRequest
from onnxpfp.score.coreset import scores_without_data
from onnxpfp.score.energy import Energy
from onnxpfp.score.pfp import Pfp, sample_size, upper_envelope
from onnxpfp.score.registry import criterion_of
from onnxpfp.score.scores import Scores

__all__ = ["Calibration", "Split", "calibrate_and_score", "score_with_data", "score_without_data", "split_of"]

HELD_OUT = 128
"""Most samples that nothing is chosen by: the drift is measured on them. As many others decide between fits."""
SHARE = 8
"""One of so many samples is held out, and one decides."""
POSITIVE, SIGNED = 2, 4
"""Sign quadrants of weights and activations."""


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """Samples by what they are for.

    Attributes:
        fit: Scores, statistics and fits are made on them.
        tuning: They decide which fit is better and how far the output drifts; None where there are too few.
        held_out: The drift of the result is measured on them; None where there are too few.
    """

    fit: Samples
    tuning: Samples | None
    held_out: Samples | None


@dataclass(frozen=True, slots=True, eq=False)
class Calibration:
    """What the data, or the weights alone, tell.

    Attributes:
        scores: One score per channel; None where a plan is replayed without data.
        statistics: Statistics of the readers; None without data.
        split: The samples by what they are for.
        known: What the data tell: "file" everything, "few" too little to hold some out, "random" nothing about the
            user's inputs, "none" nothing.
        seen: Samples that the sensitivities are measured on, or a little noise without data.
        wanted: Samples that the size formula asks for; 0 without data.
        setup: What refits work on; None where nothing is refitted.
        grams: Gram matrices of the linear ops by output, where widths or channels are chosen by them.
    """

    scores: Scores | None
    statistics: Statistics | None
    split: Split
    known: Known
    seen: Samples
    wanted: int
    setup: RefitSetup | None = None
    grams: Mapping[str, Gram] = field(default_factory=dict[str, Gram])

    def lifted(self, origin: Ids, count: int) -> Calibration:
        """Tell the scores in terms of the model that this one was made from."""
        s = self.scores
        if s is None or origin.size == count + 1:
            return self
        energy = None if s.energy is None else lifted(s.energy, origin, count)
        values, sensitivity = (lifted(each, origin, count) for each in (s.values, s.sensitivity))
        return replace(self, scores=replace(s, values=values, sensitivity=sensitivity, energy=energy))

    @property
    def held_out(self) -> Samples | None:
        """Samples that nothing was chosen by."""
        return self.split.held_out


def split_of(data: CalibrationData, seed: int) -> Split:
    """Split the samples by what they are for; noise for the oracle is not split."""
    unit = data.samples.fixed_batch or 1
    held = min(HELD_OUT, len(data.samples) // SHARE) // unit * unit
    if data.given == "none" or not held:
        return Split(data.samples, None, None)
    rng = np.random.default_rng(seed)
    rest, held_out = data.samples.split(held, rng)
    fit, tuning = rest.split(held, rng)
    return Split(fit, tuning, held_out)


def _wanted_samples(readers: Sequence[LinearOp], delta: float) -> int:
    """Return the size of S that the formula asks for (PFP; algorithms.md 1.7)."""
    return sample_size([math.prod(output_counts(reader)) for reader in readers], delta)


def _measure(
    analysis: Analysis,
    readers: Sequence[LinearOp],
    samples: Samples,
    batch_size: int,
    requests: Sequence[ProviderRequest],
    options: Options,
    tell: Count,
    observers: Sequence[Observer],
    scored: int,
) -> Statistics:
    """Measure the readers on the first samples; observers see all."""
    limited = samples.fixed_batch is None and (options.batch_size or batch_size == 1)
    return calibrate(
        analysis.source.model,
        readers,
        samples,
        kernel=options.kernel,
        batch_size=batch_size if limited else None,
        providers=requests,
        threads=options.threads,
        workspace_bytes=options.workspace,
        progress=tell,
        observers=observers,
        scored=scored,
    )


def _group_terms(
    analysis: Analysis, readers: Sequence[LinearOp], signed: Sequence[bool], delta: float
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return per group the outputs under the bound, and the log term ln(8 (P + 1) k / delta)."""
    outputs: list[int] = []
    weights: list[float] = []
    for group in analysis.graph.groups:
        total, largest = 0, 1
        for position in group.consumers:
            channels, patches = output_counts(readers[position])
            total += channels * patches * (SIGNED if signed[position] else POSITIVE)
            largest = max(largest, (patches + 1) * readers[position].kernel_size)
        outputs.append(max(1, total))
        weights.append(math.log(8 * largest) - math.log(delta))
    return np.array(outputs, np.int64), np.array(weights, np.float64)


def score_with_data(
    analysis: Analysis,
    ops: Sequence[LinearOp],
    statistics: Statistics,
    options: Options,
    measurements: Measurements | None = None,
    reads: ReadsOfGroup | None = None,
) -> Scores:
    """Turn statistics into scores.

    Args:
        analysis: The model.
        ops: Its consumers.
        statistics: Their statistics.
        options: Which criterion.
        measurements: Measures what else a criterion needs.
        reads: How the consumers read a group, for the criteria that need Gram matrices.
    """
    parts = [(statistics[op.name].channels, statistics[op.name].sensitivity) for op in ops]
    signed = [statistics[op.name].negative for op in ops]
    outputs, weight = _group_terms(analysis, ops, signed, options.delta)
    sensitivity = upper_envelope(parts, analysis.graph.count)
    score = partial(
        criterion_scores,
        analysis=analysis,
        ops=ops,
        measurements=measurements,
        seed=options.seed,
        statistics=statistics,
        sensitivity=sensitivity,
        reads=reads,
    )
    criterion = criterion_of(options.score)
    energy = score(Energy())
    values = energy if criterion.name == Energy.name else score(criterion)
    bounded = isinstance(criterion, Pfp)
    return Scores(criterion.name, values, sensitivity, energy, outputs, weight, summed=not bounded)


def score_without_data(analysis: Analysis, ops: Sequence[LinearOp], options: Options) -> Scores:
    """Score by weights alone; the bounds count both signs of every activation."""
    graph = analysis.graph
    groups = [(g.channels, [ops[position] for position in g.consumers]) for g in graph.groups]
    producers = producers_of(analysis)
    outputs, weight = _group_terms(analysis, ops, [True] * len(ops), options.delta)
    coreset = scores_without_data(graph.count, groups, producers)
    criterion = criterion_of(options.score)
    if isinstance(criterion, Pfp):
        return Scores("coreset", coreset, coreset, None, outputs, weight)
    values = criterion_scores(criterion, analysis, ops, None, seed=options.seed)
    return Scores(criterion.name, values, coreset, None, outputs, weight, summed=True)


def calibrate_and_score(
    analysis: Analysis,
    readers: tuple[LinearOp, ...],
    data: CalibrationData,
    split: Split,
    requests: Sequence[ProviderRequest],
    options: Options,
    *,
    replaying: bool,
    clock: Clock,
) -> Calibration:
    """Measure the readers and score the channels.

    Args:
        analysis: The model.
        readers: Its consumers.
        data: The samples.
        split: The same by what they are for.
        requests: Where to run.
        options: How to prune.
        replaying: Whether a plan says what stays, so that no scores are needed.
        clock: Adds up seconds, and says how far it is.
    """
    known = _known(data, split)
    _refuse_what_needs_data(options, known, data, replaying=replaying)
    if data.given == "none":
        with clock.phase("ranking"):
            scores = None if replaying else score_without_data(analysis, readers, options)
        return Calibration(scores, None, split, known, data.samples, 0)
    if not readers:
        # Nothing can go: a plan that keeps everything, or a target of 1.
        return Calibration(None, Statistics(), split, known, split.fit, 0)
    wanted = _wanted_samples(readers, options.delta)
    # A fixed batch may be more than the formula asks for.
    seen = split.fit.take(min(max(wanted, split.fit.fixed_batch or 1), len(split.fit)))
    setup = None if split.tuning is None else refit_setup(analysis, split.fit, split.tuning, data, requests, options)
    surveyed = needs_grams(options, known) and not replaying
    observers = start_gram_observers(setup) if setup is not None and surveyed else ()
    with clock.phase("calibration") as tell:
        statistics = _measure(
            analysis, readers, split.fit, data.batch_size, requests, options, tell, observers, len(seen)
        )
    grams = observed_grams(observers)

    with clock.phase("ranking") as tell:
        scores = None
        if not replaying:
            measurements = Measurements(analysis, readers, seen, data.batch_size, requests, options, tell)
            reads = None if setup is None else partial(group_reads, setup, grams)
            scores = score_with_data(analysis, readers, statistics, options, measurements, reads)
    return Calibration(scores, statistics, split, known, seen, wanted, setup, grams)


def _known(data: CalibrationData, split: Split) -> Known:
    if data.given == "none":
        return "none"
    if split.tuning is None:
        return "few"
    return "random" if data.given == "random" else "file"


def _refuse_what_needs_data(options: Options, known: Known, data: CalibrationData, *, replaying: bool) -> None:
    """Refuse what was asked for and cannot be done with so little data.

    Raises:
        CalibrationError: It needs data, or more of them.
    """
    if known not in {"none", "few"}:
        return
    # What is held out fills whole batches where the model takes no others.
    least = SHARE * (data.samples.fixed_batch or 1)
    asked = {"--compensate": options.compensate}
    if not replaying:
        criterion = criterion_of(options.score)
        asked |= {"--score": criterion.name if "gram" in criterion.needs else "", "--allocate": options.allocate or ""}
    for flag, value in asked.items():
        if value in {"measured", "lstsq"} or (flag == "--score" and value):
            raise CalibrationError(
                f"{flag} {value} holds samples out to decide on, which takes {least} samples, and "
                f"{len(data.samples)} are given"
                if known == "few"
                else f"{flag} {value} measures the data, and none are given",
                hint="give more unlabelled samples" if known == "few" else "give --calib-data FILE.npz",
            )


def needs_grams(options: Options, known: Known) -> bool:
    """Tell whether widths or channels are chosen by the Gram matrices of the original network."""
    measured = options.allocation(known) == "measured" and options.compensation(known) == "lstsq"
    return "gram" in criterion_of(options.score).needs or measured
