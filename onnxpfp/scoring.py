"""Scores of all channels, with data (PFP) or without (coreset)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

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
from onnxpfp.prepare import Prepared
from onnxpfp.score.energy import energy_shares
from onnxpfp.score.pfp import sample_size, upper_envelope
from onnxpfp.score.types import Scores
from onnxpfp.score.without_data import scores_without_data

__all__ = ["measure", "score_with_data", "score_without_data", "wanted_samples"]

POSITIVE, SIGNED = 2, 4
"""Sign quadrants of weights and activations."""


def wanted_samples(readers: Sequence[Reader], delta: float) -> int:
    """Return the size of S that the formula asks for (PFP; algorithms.md 1.7)."""
    return sample_size([math.prod(reader_outputs(reader)) for reader in readers], delta)


def measure(
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
    samples: int,
    options: Options,
) -> Scores:
    """Turn statistics into scores: the largest sensitivity over the consumers, or the sum of their energies."""
    names = [reader_name(position) for position in range(len(readers))]
    parts = [(statistics[name].channels, statistics[name].sensitivity) for name in names]
    signed = [statistics[name].negative for name in names]
    outputs, weight = _group_terms(prepared, readers, signed, options.delta)
    sensitivity = upper_envelope(parts, prepared.graph.count)
    return Scores(
        method=options.score,
        values=sensitivity if options.score == "pfp" else _energies(prepared, readers, statistics),
        sensitivity=sensitivity,
        outputs=outputs,
        weight=weight,
        samples=samples,
        samples_wanted=wanted_samples(readers, options.delta),
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
        outputs=outputs,
        weight=weight,
        samples=0,
        samples_wanted=0,
    )
