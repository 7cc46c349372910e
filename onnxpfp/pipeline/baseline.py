"""Scores of the baselines: gather what one looks at, and bring its numbers to the channels."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxpfp.calibrate.activations import Bundle, channels_first, stream_activations
from onnxpfp.calibrate.statistics import Statistics
from onnxpfp.channels import Analysis, Group
from onnxpfp.channels.producers import Filters, carriers_of, norm_scales, producers_of
from onnxpfp.data.samples import Samples
from onnxpfp.errors import OptionError
from onnxpfp.linear.columns import columns, draw_positions, outputs_at
from onnxpfp.linear.ops import LinearOp
from onnxpfp.options import Options
from onnxpfp.progress import Count
from onnxpfp.runtime.providers import ProviderRequest
from onnxpfp.score.baselines import (
    BASELINES,
    Baseline,
    OfChance,
    OfColumns,
    OfMaps,
    OfNorms,
    OfSquares,
    OfWeights,
)
from onnxpfp.score.magnitude import long_rows, places
from onnxpfp.score.maps import MapMean
from onnxpfp.score.thinet import Contributions

__all__ = ["baseline_scores"]

Floats = NDArray[np.float64]
Values = Mapping[str, NDArray[Any]]

POINTS = 10
"""Output positions per sample at which ThiNet looks: neighbours say much the same."""


def baseline_scores(
    name: str,
    analysis: Analysis,
    readers: Sequence[LinearOp],
    samples: Samples | None,
    *,
    batch_size: int,
    requests: Sequence[ProviderRequest],
    options: Options,
    statistics: Statistics | None = None,
    tell: Count | None = None,
) -> Floats:
    """Score every channel by a baseline of `onnxpfp.score.baselines`.

    Args:
        name: The baseline.
        analysis: The model.
        readers: Its consumers.
        samples: Calibration samples, or None.
        batch_size: Samples in one run.
        requests: Where to run.
        options: The seed, the threads and the workspace.
        statistics: Statistics of the readers, where they are known already.
        tell: Told how many samples have run, of how many.

    Returns:
        Score by channel id, (count + 1,) float64, finite and not negative; entry 0 is 0.

    Raises:
        OptionError: The baseline needs something that is not there: samples, or a BatchNormalization.
        CalibrationError: The network computes NaN on the samples.
    """
    baseline = BASELINES[name]
    watch = None if samples is None else _Watch(analysis, readers, samples, batch_size, requests, options, tell)
    values = _scores(baseline, analysis, readers, watch, options.seed, statistics)
    values[0] = 0.0
    for group in analysis.graph.groups:
        own = values[group.channels]
        if np.isnan(own).any():
            raise OptionError(
                f"--score {name}: no BatchNormalization behind '{group.name}': it is folded, or there was none",
                hint=f"export the model without folding it, or leave the group out: --exclude '{group.name}'",
            )
        total = float(own.sum())
        if not baseline.comparable and total > 0.0:
            values[group.channels] = own / total
    return values


def _scores(
    baseline: Baseline,
    analysis: Analysis,
    readers: Sequence[LinearOp],
    watch: _Watch | None,
    seed: int,
    statistics: Statistics | None,
) -> Floats:
    """Score by channel id, (count + 1,), NaN where the baseline says nothing."""
    match baseline:
        case OfChance():
            return baseline.score(analysis.graph.count + 1, np.random.default_rng(seed))
        case OfWeights():
            return _by_weights(baseline, analysis, readers)
        case OfNorms():
            return _by_norms(baseline, analysis)
        case OfSquares() if statistics is not None:
            squares = [statistics[reader.name].square_sum for reader in readers]
            return _by_squares(baseline, analysis, readers, squares)
        case _ if watch is None:
            raise OptionError(
                f"--score {baseline.name} measures the data, and none are given", hint="give --calib-data FILE.npz"
            )
        case OfSquares():
            return _by_squares(baseline, analysis, readers, watch.squares())
        case OfMaps():
            return _by_maps(baseline, analysis, readers, watch.means(baseline.score))
        case OfColumns():
            return _by_columns(baseline, analysis, readers, watch.contributions(seed))
        case _:
            raise TypeError(type(baseline))


def _by_weights(baseline: OfWeights, analysis: Analysis, readers: Sequence[LinearOp]) -> Floats:
    """Score the long rows of every group.

    Channels that no Conv, Gemm or MatMul brings forth have the rows of whatever other weights do; where there are none
    either (they come from quantized weights, say), all channels of the group are alike.
    """
    graph = analysis.graph
    producers = producers_of(analysis.source.model, graph, analysis.constants)
    carriers = carriers_of(graph, analysis.constants)
    values = np.zeros(graph.count + 1)
    for group in graph.groups:
        rows = _filters(producers, group) or _filters(carriers, group)
        for position in group.consumers if baseline.columns else ():
            reader = readers[position]
            if reader.weight is not None:
                rows.append(partial(long_rows, reader.taps(), places(reader.channels, group.channels)))
        pieces = (piece for row in rows for piece in row())
        values[group.channels] = baseline.score(pieces) if rows else 1.0
    return values


def _filters(producers: Sequence[Filters], group: Group) -> list[Callable[[], Iterator[Floats]]]:
    """List what reads the filters of a group, one reading for every producer that it has."""
    found = ((producer, places(producer.ids, group.channels)) for producer in producers)
    return [partial(long_rows, producer.rows, where, producer.scale) for producer, where in found if where.size]


def _by_norms(baseline: OfNorms, analysis: Analysis) -> Floats:
    """Score the scales of every group."""
    graph = analysis.graph
    norms = norm_scales(analysis.source.model, graph, analysis.constants)
    values = np.zeros(graph.count + 1)
    for group in graph.groups:
        picked = [(norm.gamma, places(norm.ids, group.channels)) for norm in norms]
        scales = [gamma[where] for gamma, where in picked if where.size]
        values[group.channels] = baseline.score(group.channels.size, scales)
    return values


def _by_squares(
    baseline: OfSquares, analysis: Analysis, readers: Sequence[LinearOp], squares: Sequence[Floats]
) -> Floats:
    """Add up the shares of every consumer; two activations count as weights of one."""
    values = np.zeros(analysis.graph.count + 1)
    for reader, square_sum in zip(readers, squares, strict=True):
        weights = np.ones(len(reader.channels)) if reader.weight is None else reader.taps()
        np.add.at(values, reader.channels, baseline.score(weights, square_sum))
    return values


def _by_maps(baseline: OfMaps, analysis: Analysis, readers: Sequence[LinearOp], means: Sequence[Floats]) -> Floats:
    """Add up the shares of every consumer."""
    values = np.zeros(analysis.graph.count + 1)
    for reader, mean in zip(readers, means, strict=True):
        total = float(mean.sum())
        np.add.at(values, reader.channels, mean / total if total > 0.0 else mean)
    return values


def _by_columns(
    baseline: OfColumns, analysis: Analysis, readers: Sequence[LinearOp], grams: Sequence[Floats]
) -> Floats:
    """Add up the consumers' matrices, each relative to its trace, and score every group by its part of the sum."""
    graph = analysis.graph
    values = np.zeros(graph.count + 1)
    for group in graph.groups:
        size = group.channels.size
        together = np.zeros((size, size))
        for position in group.consumers:
            gram, where = grams[position], places(readers[position].channels, group.channels)
            part = gram[np.ix_(where.ravel(), where.ravel())].reshape(size, where.shape[1], size, where.shape[1])
            trace = float(np.trace(gram))
            together += part.sum(axis=(1, 3)) / trace if trace > 0.0 else 0.0
        values[group.channels] = baseline.score(together)
    return values


@dataclass(frozen=True, slots=True, eq=False)
class _Watch:
    """Looks at what the readers read while the samples run.

    Attributes:
        analysis: The model.
        readers: Its consumers, in the order of the graph.
        samples: What is fed.
        batch_size: Samples in one run.
        requests: Where to run.
        options: The threads and the workspace.
        tell: Told how many samples have run, of how many; each counts once in every pass.
    """

    analysis: Analysis
    readers: Sequence[LinearOp]
    samples: Samples
    batch_size: int
    requests: Sequence[ProviderRequest]
    options: Options
    tell: Count | None

    def squares(self) -> list[Floats]:
        """Return the summed squares of every index, (C,), per reader."""
        return [found.total for found in self._sums(_square_sums)]

    def means(self, score: Callable[[NDArray[Any]], Floats]) -> list[Floats]:
        """Return the mean over samples of what a function makes of their maps, (C,), per reader."""
        return [found.mean for found in self._sums(score)]

    def contributions(self, seed: int) -> list[Floats]:
        """Return Q, (C, C), per reader."""
        rng = np.random.default_rng(seed)
        found = [_contributions(reader) for reader in self.readers]
        for position, values in self._run([self._bundle(p, outputs=True) for p in range(len(self.readers))]):
            reader = self.readers[position]
            unfolded = self._columns(position, values, rng)
            found[position].add(unfolded.reshape(len(unfolded), len(reader.channels), -1))
        return [each.gram() for each in found]

    def _sums(self, score: Callable[[NDArray[Any]], Floats]) -> list[MapMean]:
        """Apply a function to the maps of every sample; readers of the same axis share the result."""
        keys = [(reader.data, reader.zero, reader.axis) for reader in self.readers]
        first = {key: position for position, key in reversed([*enumerate(keys)])}
        order = sorted(first.values())
        sums: dict[int, MapMean] = {}
        for place, values in self._run([self._bundle(position) for position in order]):
            reader = self.readers[order[place]]
            found = MapMean.of(score(channels_first(self._numbers(reader, values), reader.axis)))
            sums[place] = sums[place].merge(found) if place in sums else found
        return [sums[order.index(first[key])] for key in keys]

    def _run(self, bundles: Sequence[Bundle]) -> Iterator[tuple[int, Values]]:
        """Yield every bundle of every batch, with its position."""
        for run, values in stream_activations(
            self.analysis.source.model,
            bundles,
            self.samples,
            batch_size=self.batch_size,
            providers=self.requests,
            threads=self.options.threads,
            # One batch is looked at while the next is made.
            workspace_bytes=self.options.workspace // 2,
            progress=self.tell,
        ):
            for position in run:
                yield position, values

    def _bundle(self, position: int, *, outputs: bool = False) -> Bundle:
        """List what must be seen of a reader: its data, a zero point that is computed, and its output on demand."""
        reader = self.readers[position]
        names = {reader.data: reader.data_shape}
        if reader.zero and reader.zero not in self.analysis.constants.names:
            names[reader.zero] = ()
        if outputs and reader.kind in {"conv", "conv_transpose"}:
            names[self.analysis.graph.consumers[position].output] = reader.output_shape
        return names

    def _numbers(self, reader: LinearOp, values: Values) -> NDArray[Any]:
        """Return what a reader reads, quantized data minus their zero point."""
        array = values[reader.data]
        if not reader.zero:
            return array
        known = reader.zero in self.analysis.constants.names
        zero = self.analysis.constants.value(reader.zero) if known else values[reader.zero]
        return array.astype(np.float32) - zero.astype(np.float32)

    def _columns(self, position: int, values: Values, rng: np.random.Generator) -> NDArray[Any]:
        """Return the columns of a reader at drawn positions, (T, C * k)."""
        reader = self.readers[position]
        array = self._numbers(reader, values)
        if reader.kind in {"conv", "conv_transpose"}:
            shape = values[self.analysis.graph.consumers[position].output].shape
            return columns(reader, array, shape[2:], draw_positions(shape, 1, POINTS, rng))
        return outputs_at(array, reader.axis, draw_positions(array.shape, reader.axis, POINTS, rng))


def _square_sums(maps: NDArray[Any]) -> Floats:
    flat = maps.reshape(*maps.shape[:2], -1).astype(np.float64)
    return np.einsum("ncp,ncp->nc", flat, flat)


def _contributions(reader: LinearOp) -> Contributions:
    """Begin Q of a reader; two activations count as weights of one."""
    count = len(reader.channels)
    if reader.weight is None:
        return Contributions(lambda: np.ones((count, 1, 1)), count, 1)
    shape = reader.taps().shape
    return Contributions(reader.taps, count, shape[1], reader.group)
