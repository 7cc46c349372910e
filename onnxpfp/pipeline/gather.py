"""What the data, or the weights alone, tell: statistics of the readers, scores of the channels."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnxpfp.calibrate import (
    ProviderRequest,
    Reader,
    Samples,
    Statistics,
    calibrate,
    reader_outputs,
)
from onnxpfp.calibrate.describe import reader_name
from onnxpfp.channels.producers import producers_of
from onnxpfp.config import Options
from onnxpfp.pipeline.prepare import Data, Prepared
from onnxpfp.score.energy import energy_shares
from onnxpfp.score.pfp import sample_size, upper_envelope
from onnxpfp.score.types import Scores
from onnxpfp.score.without_data import scores_without_data

__all__ = ["Evidence", "gather", "score_with_data", "score_without_data"]

HELD_OUT = 256
"""Most samples that are kept away from the calibration to measure the drift on."""
POSITIVE, SIGNED = 2, 4
"""Sign quadrants of weights and activations."""


@dataclass(frozen=True, slots=True, eq=False)
class Evidence:
    """What the data, or the weights alone, tell.

    Attributes:
        scores: One score per channel; None where a plan is replayed without data.
        statistics: Statistics of the readers; None without data.
        held_out: Samples that were kept away from the calibration; None where there are too few.
        seen: Samples that the calibration has seen, or a little noise without data.
        wanted: Samples that the size formula asks for; 0 without data.
    """

    scores: Scores | None
    statistics: Statistics | None
    held_out: Samples | None
    seen: Samples
    wanted: int


def _wanted_samples(readers: Sequence[Reader], delta: float) -> int:
    """Return the size of S that the formula asks for (PFP; algorithms.md 1.7)."""
    return sample_size([math.prod(reader_outputs(reader)) for reader in readers], delta)


def _measure(
    prepared: Prepared,
    readers: Sequence[Reader],
    samples: Samples,
    batch_size: int,
    requests: Sequence[ProviderRequest],
    options: Options,
    progress: Callable[[int, int], None] | None,
) -> Statistics:
    """Run the probe over the samples."""
    limited = samples.fixed_batch is None and (options.batch_size or batch_size == 1)
    return calibrate(
        prepared.source.model,
        readers,
        samples,
        kernel=options.kernel,
        batch_size=batch_size if limited else None,
        providers=requests,
        threads=options.threads,
        progress=progress,
    )


def _group_terms(
    prepared: Prepared, readers: Sequence[Reader], signed: Sequence[bool], delta: float
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return per group the outputs under the bound, and the log term ln(8 (P + 1) k / delta)."""
    outputs: list[int] = []
    weights: list[float] = []
    for group in prepared.graph.groups:
        total, largest = 0, 1
        for position in group.consumers:
            channels, patches = reader_outputs(readers[position])
            total += channels * patches * (SIGNED if signed[position] else POSITIVE)
            largest = max(largest, (patches + 1) * readers[position].kernel_size)
        outputs.append(max(1, total))
        weights.append(math.log(8 * largest) - math.log(delta))
    return np.array(outputs, np.int64), np.array(weights, np.float64)


def _energies(prepared: Prepared, readers: Sequence[Reader], statistics: Statistics) -> NDArray[np.float64]:
    """Add up each channel's share of its consumers' output energy."""
    values = np.zeros(prepared.graph.count + 1)
    for position, reader in enumerate(readers):
        weights = np.ones(len(reader.channels)) if reader.weight is None else reader.taps()
        shares = energy_shares(weights, statistics[reader_name(position)].square_sum)
        np.add.at(values, reader.channels, shares)
    values[0] = 0.0
    return values


def score_with_data(
    prepared: Prepared,
    readers: Sequence[Reader],
    statistics: Statistics,
    options: Options,
) -> Scores:
    """Turn statistics into scores: the largest sensitivity over the consumers, or the sum of their energies."""
    names = [reader_name(position) for position in range(len(readers))]
    parts = [(statistics[name].channels, statistics[name].sensitivity) for name in names]
    signed = [statistics[name].negative for name in names]
    outputs, weight = _group_terms(prepared, readers, signed, options.delta)
    sensitivity = upper_envelope(parts, prepared.graph.count)
    energy = _energies(prepared, readers, statistics)
    return Scores(
        method=options.score,
        values=sensitivity if options.score == "pfp" else energy,
        sensitivity=sensitivity,
        energy=energy,
        outputs=outputs,
        weight=weight,
    )


def score_without_data(prepared: Prepared, readers: Sequence[Reader], options: Options) -> Scores:
    """Score by weights alone; the bounds count both signs of every activation."""
    graph = prepared.graph
    groups = [(g.channels, [readers[position] for position in g.consumers]) for g in graph.groups]
    producers = producers_of(prepared.source.model, graph, prepared.constants)
    outputs, weight = _group_terms(prepared, readers, [True] * len(readers), options.delta)
    values = scores_without_data(graph.count, groups, producers)
    return Scores(
        method="coreset",
        values=values,
        sensitivity=values,
        energy=None,
        outputs=outputs,
        weight=weight,
    )


def _held_out(samples: Samples) -> int:
    """Return how many samples to hold out: whole feeds where their size is fixed."""
    unit = samples.fixed_batch or 1
    return min(HELD_OUT, len(samples) // 4) // unit * unit


def gather(
    prepared: Prepared,
    readers: tuple[Reader, ...],
    data: Data,
    requests: Sequence[ProviderRequest],
    options: Options,
    *,
    replaying: bool,
    tell: Callable[[int, int], None],
) -> Evidence:
    """Split the data, measure the readers and score the channels.

    Args:
        prepared: The model.
        readers: Its consumers.
        data: The samples.
        requests: Where to run.
        options: How to prune.
        replaying: Whether a plan says what stays, so that no scores are needed without data.
        tell: Told how many samples are done, of how many.
    """
    held = _held_out(data.samples) if data.given != "none" else 0
    rng = np.random.default_rng(options.seed)
    rest, held_out = data.samples.split(held, rng) if held else (data.samples, None)
    if data.given == "none":
        scores = None if replaying else score_without_data(prepared, readers, options)
        return Evidence(scores, None, None, data.samples, 0)
    if not readers:
        # Nothing can go: a plan that keeps everything, or a target of 1.
        return Evidence(None, Statistics(), held_out, rest, 0)
    wanted = _wanted_samples(readers, options.delta)
    seen = rest.take(min(wanted, len(rest)))
    statistics = _measure(
        prepared,
        readers,
        seen,
        data.batch_size,
        requests,
        options,
        tell,
    )
    scores = score_with_data(prepared, readers, statistics, options)
    return Evidence(scores, statistics, held_out, seen, wanted)
