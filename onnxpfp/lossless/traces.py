"""Two passes over the data: traces of the axes that consumers read, then the gaps of what was proposed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from onnxpfp.arrays import Arrays
from onnxpfp.calibrate.observer import Batch, Observer, Shape, not_finite
from onnxpfp.data.feed_samples import FeedSamples
from onnxpfp.data.inputs import input_specs
from onnxpfp.data.samples import Feed, Samples
from onnxpfp.linear.columns import samples_first
from onnxpfp.lossless.detect import PROJECTIONS, Trace, largest_gaps, trace, unseen

__all__ = ["GapObserver", "Gaps", "Pair", "Site", "TraceObserver", "Watch", "gaps_of", "noise_like", "traces_of"]

Site = tuple[str, int]
"""A tensor and one of its axes."""
Pair = tuple[int, int, float]
"""Indices j and k of an axis and the factor alpha of x_j = alpha x_k."""
Watch = Callable[[Sequence[Observer]], None]
"""Runs the network over the samples for observers."""

SCALES = (0.1, 1.0, 10.0)
FEEDS = 4
"""Feeds of noise at each scale."""


@dataclass(frozen=True, slots=True, eq=False)
class Gaps:
    """The largest |x_j - alpha x_k| of pairs of indices, (pairs,)."""

    largest: NDArray[np.float64]

    def merge(self, other: Self) -> Self:
        """Return the largest on both sets of samples."""
        return type(self)(np.maximum(self.largest, other.largest))


@dataclass(slots=True, eq=False)
class TraceObserver(Observer):
    """Takes the trace of one axis.

    Attributes:
        site: The tensor and the axis.
        shape: The tensor's shape for one sample.
        number: Of the tensor, which sets the draws apart from those of others.
        trace: What was seen so far.
    """

    site: Site
    shape: Shape
    number: int
    trace: Trace | None = field(default=None, init=False)

    @property
    def needs(self) -> Mapping[str, Shape]:
        """The tensor."""
        return {self.site[0]: self.shape}

    @property
    def work(self) -> int:
        """Multiplications of one sample."""
        return math.prod(self.shape) * PROJECTIONS

    def see(self, tensors: Arrays, batch: Batch) -> None:
        """Count one batch in."""
        name = self.site[0]
        array, axis = samples_first(tensors[name], self.site[1])
        batch_trace = trace(array, axis, (self.number, self.site[1]), batch.first_row(len(array)))
        if array.dtype.kind == "f" and array.size and not np.isfinite(batch_trace.scale).all():
            raise not_finite(name)
        self.trace = batch_trace if self.trace is None else self.trace.merge(batch_trace)

    def statistics(self) -> dict[str, Trace]:
        """Return the trace."""
        return {} if self.trace is None else {f"{self.site[0]} {self.site[1]}": self.trace}


@dataclass(slots=True, eq=False)
class GapObserver(Observer):
    """Measures the gaps of pairs of indices of one axis.

    Attributes:
        site: The tensor and the axis.
        shape: The tensor's shape for one sample.
        pairs: The pairs.
    """

    site: Site
    shape: Shape
    pairs: Sequence[Pair]
    gaps: Gaps = field(init=False)
    _columns: tuple[NDArray[Any], ...] = field(init=False)

    def __post_init__(self) -> None:
        self.gaps = Gaps(np.zeros(len(self.pairs)))
        self._columns = tuple(np.array(column) for column in zip(*self.pairs, strict=True))

    @property
    def needs(self) -> Mapping[str, Shape]:
        """The tensor."""
        return {self.site[0]: self.shape}

    @property
    def work(self) -> int:
        """Multiplications of one sample."""
        return math.prod(self.shape) // self.shape[self.site[1]] * len(self.pairs)

    def see(self, tensors: Arrays, batch: Batch) -> None:
        """Count one batch in."""
        dropped, kept, factor = self._columns
        self.gaps = self.gaps.merge(Gaps(largest_gaps(tensors[self.site[0]], self.site[1], dropped, kept, factor)))

    def statistics(self) -> dict[str, Gaps]:
        """Return the gaps."""
        return {f"{self.site[0]} {self.site[1]}": self.gaps}


def traces_of(watch: Watch, sites: Iterable[Site], shapes: Mapping[str, Shape]) -> dict[Site, Trace]:
    """Take the trace of every site over all samples.

    Args:
        watch: Runs the network.
        sites: The tensors and axes.
        shapes: Shapes of the tensors for one sample.
    """
    numbers: dict[str, int] = {}
    observers = [
        TraceObserver((name, axis), shapes[name], numbers.setdefault(name, len(numbers))) for name, axis in sites
    ]
    # Axes of one tensor stand side by side.
    observers.sort(key=lambda observer: observer.number)
    watch(observers)
    return {observer.site: observer.trace or unseen(observer.shape[observer.site[1]]) for observer in observers}


def gaps_of(
    watch: Watch, pairs: Mapping[Site, Sequence[Pair]], shapes: Mapping[str, Shape]
) -> dict[Site, NDArray[np.float64]]:
    """Measure the largest |x_j - alpha x_k| of pairs of indices over all samples."""
    observers = [GapObserver(site, shapes[site[0]], some) for site, some in sorted(pairs.items())]
    watch(observers)
    return {observer.site: observer.gaps.largest for observer in observers}


def noise_like(model: ModelProto, samples: Samples, rng: np.random.Generator) -> Samples:
    """Draw normal noise of several scales in the shapes of some samples; integers stay what they are."""
    given = [feed for feed, _ in zip(samples.batches(1), range(FEEDS), strict=False)]
    feeds: list[Feed] = [
        {name: _noise(array, scale, rng) for name, array in feed.items()} for scale in SCALES for feed in given
    ]
    specs = input_specs(model, {name: array.shape for name, array in given[0].items()})
    return FeedSamples.of(specs, feeds, {name: axis for name, axis in samples.axes.items() if axis is not None})


def _noise(array: NDArray[Any], scale: float, rng: np.random.Generator) -> NDArray[Any]:
    if array.dtype.kind in "iubOSU":
        return array
    return np.asarray(rng.standard_normal(array.shape) * scale).astype(array.dtype)
