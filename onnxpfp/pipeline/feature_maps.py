"""The maps of a group's channels: where they are, and their statistics, measured while the samples run.

After the activation they are what the consumers of the group read, each tensor once. Before it they are what every
Conv, Gemm or MatMul that brings the channels forth puts out, behind its BatchNormalization.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxpfp.arrays import Arrays, Ints, chunks
from onnxpfp.calibrate.observer import Batch, Observer, Shape, not_finite
from onnxpfp.channels import Analysis, Group
from onnxpfp.channels.ops import facts_of
from onnxpfp.errors import OptionError
from onnxpfp.linear.layout import output_axis
from onnxpfp.linear.ops import LinearOp
from onnxpfp.linear.producers import producers_of
from onnxpfp.pipeline.measurements import Measurements, channels_first
from onnxpfp.score.criterion import Criterion
from onnxpfp.score.feature_statistics import FeatureStatistics
from onnxpfp.score.group_data import places
from onnxpfp.score.map_statistics import MapStatistics

__all__ = [
    "GroupMaps",
    "MapSource",
    "MapStatisticsObserver",
    "maps_for",
    "measured_maps",
    "produced_maps",
    "read_maps",
]


@dataclass(frozen=True, slots=True, eq=False)
class MapSource:
    """A tensor that has the maps of a group of n channels.

    Attributes:
        data: Its name.
        shape: Its shape at batch one.
        axis: The axis of the channels, counted from the front.
        positions: Where each channel lies on it, (n, m): all entries there are one map.
        zero: Tensor with the zero point of quantized data; empty where they are not.
    """

    data: str
    shape: Shape
    axis: int
    positions: Ints
    zero: str = ""

    @property
    def key(self) -> tuple[str, str, int]:
        """What is the same for all that read it alike."""
        return self.data, self.zero, self.axis

    def maps(self, tensors: Arrays) -> NDArray[Any]:
        """Return the maps, (N, n, m, entries).

        Raises:
            CalibrationError: They are not finite.
        """
        numbers = tensors[self.data]
        if self.zero:
            numbers = numbers.astype(np.float32) - tensors[self.zero].astype(np.float32)
        if numbers.dtype.kind == "f" and not np.isfinite(numbers).all():
            raise not_finite(self.data)
        first = channels_first(numbers, self.axis)
        flat: NDArray[Any] = first.reshape(*first.shape[:2], -1)
        places_in_order = self.positions.ravel()
        if places_in_order.size == first.shape[1] and (places_in_order[1:] > places_in_order[:-1]).all():
            # The whole axis as it is: a view.
            return flat.reshape(len(flat), *self.positions.shape, -1)
        return flat[:, self.positions]


@dataclass(frozen=True, slots=True, eq=False)
class GroupMaps:
    """The maps of a group.

    Attributes:
        sources: The tensors that have them.
        statistics: Their statistics, once they are measured.
    """

    sources: tuple[MapSource, ...]
    statistics: tuple[MapStatistics, ...] = ()

    def at(self, op: LinearOp) -> MapStatistics:
        """Return the statistics of what one consumer reads."""
        return next(
            statistics
            for source, statistics in zip(self.sources, self.statistics, strict=True)
            if source.key == _key(op)
        )


@dataclass(slots=True, eq=False)
class MapStatisticsObserver(Observer):
    """Collects the statistics of the maps of a group at one tensor.

    Attributes:
        source: The tensor.
        gram: Whether Gram matrices are wanted.
        name: What the statistics are called.
    """

    source: MapSource
    gram: bool
    name: str
    _statistics: MapStatistics = field(init=False)

    def __post_init__(self) -> None:
        self._statistics = MapStatistics.empty(len(self.source.positions), gram=self.gram)

    @property
    def needs(self) -> Mapping[str, Shape]:
        """The tensor, and its zero point."""
        return {self.source.data: self.source.shape} | ({self.source.zero: ()} if self.source.zero else {})

    @property
    def work(self) -> int:
        """Multiplications of one sample, roughly."""
        return math.prod(self.source.shape) * (len(self.source.positions) if self.gram else 1)

    def see(self, tensors: Arrays, batch: Batch) -> None:
        """Count one batch in, some samples at a time."""
        maps = self.source.maps(tensors)
        flat = maps.reshape(*maps.shape[:2], -1)
        for run in chunks(len(flat), 8 * flat[0].size if len(flat) else 0):
            self._statistics = self._statistics.merge(MapStatistics.of(flat[run], gram=self.gram))

    def statistics(self) -> dict[str, MapStatistics]:
        """Return what was collected."""
        return {self.name: self._statistics}


def read_maps(analysis: Analysis, ops: Sequence[LinearOp]) -> list[GroupMaps]:
    """List what the consumers of every group read."""
    groups: list[GroupMaps] = []
    for group in analysis.graph.groups:
        sources: dict[tuple[str, str, int], MapSource] = {}
        for position in group.consumers:
            op = ops[position]
            where = places(op.channels, group.channels)
            sources.setdefault(_key(op), MapSource(op.data, op.data_shape, op.axis, where, op.zero))
        groups.append(GroupMaps(tuple(sources.values())))
    return groups


def produced_maps(analysis: Analysis) -> list[GroupMaps]:
    """List what brings forth the channels of every group, before the activation.

    Raises:
        OptionError: No Conv, Gemm or MatMul brings forth those of one.
    """
    producers = producers_of(analysis)
    groups: list[GroupMaps] = []
    for group in analysis.graph.groups:
        sources: list[MapSource] = []
        for producer in producers:
            where = places(producer.ids, group.channels)
            if where.size:
                name = producer.folded or producer.output
                shape = analysis.shapes.shape[name]
                axis = output_axis(len(shape), matrix=_is_matrix(analysis, producer.output))
                sources.append(MapSource(name, shape, axis, where))
        if not sources:
            raise _no_producer(group)
        groups.append(GroupMaps(tuple(sources)))
    return groups


def maps_for(
    criterion: Criterion, analysis: Analysis, ops: Sequence[LinearOp], measurements: Measurements
) -> list[GroupMaps]:
    """Measure the maps of every group that a criterion looks at.

    Raises:
        OptionError: It looks at maps before the activation, and some are not brought forth by a linear op.
    """
    if not isinstance(criterion, FeatureStatistics):
        return measured_maps(read_maps(analysis, ops), measurements, gram=True)
    groups = read_maps(analysis, ops) if criterion.maps == "after" else produced_maps(analysis)
    return measured_maps(groups, measurements, gram=criterion.compares)


def measured_maps(groups: Sequence[GroupMaps], measurements: Measurements, *, gram: bool) -> list[GroupMaps]:
    """Measure the statistics of maps.

    Args:
        groups: Where they are.
        measurements: Runs the network.
        gram: Whether Gram matrices are wanted: n^2 numbers for every group of n channels and tensor.
    """
    observers = [
        [MapStatisticsObserver(source, gram, f"group {number} at {source.data}") for source in maps.sources]
        for number, maps in enumerate(groups)
    ]
    measurements.run([observer for some in observers for observer in some])
    return [
        replace(maps, statistics=tuple(statistics for each in some for statistics in each.statistics().values()))
        for maps, some in zip(groups, observers, strict=True)
    ]


def _key(op: LinearOp) -> tuple[str, str, int]:
    return op.data, op.zero, op.axis


def _is_matrix(analysis: Analysis, output: str) -> bool:
    """Tell whether a tensor is a product with a matrix, whose last axis has the channels."""
    node = analysis.index.producer(output)
    return node is not None and facts_of(node).layout == "matrix"


def _no_producer(group: Group) -> OptionError:
    return OptionError(
        f"--maps before: no Conv, Gemm or MatMul of the file brings forth the channels of '{group.name}'",
        hint=f"--maps after, or leave the group out: --exclude '{group.name}'",
    )
