"""Measurements of what consumers read, for criteria: squares, means over maps, contributions, second moments."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxpfp.arrays import AnyFloats, Arrays, Floats
from onnxpfp.calibrate.observer import Batch, Observer, Shape, not_finite
from onnxpfp.calibrate.runner import run_observers
from onnxpfp.calibrate.statistics import SampleSum, Statistic
from onnxpfp.channels import Analysis
from onnxpfp.data.samples import Samples
from onnxpfp.linear.columns import columns, output_shape, outputs_at, sample_positions, samples_first
from onnxpfp.linear.ops import LinearOp
from onnxpfp.options import Options
from onnxpfp.progress import Count
from onnxpfp.runtime.providers import ProviderRequest
from onnxpfp.score.output_moments import OutputMoments, OutputSquares
from onnxpfp.score.thinet import Contributions

__all__ = [
    "SHARE_POINTS",
    "ContributionObserver",
    "InputObserver",
    "MapObserver",
    "Measurements",
    "MomentObserver",
    "SquareObserver",
    "channels_first",
    "consumer_taps",
    "drawn_columns",
]

OfMaps = Callable[[NDArray[Any]], Floats]
"""Makes one number of each map of a sample: (N, C, *spatial) to (N, C)."""

POINTS = 10
"""Output positions per sample at which ThiNet looks: neighbours say much the same."""
SHARE_POINTS = 16
"""The same for second moments, and for the errors of a choice."""


@dataclass(frozen=True, slots=True, eq=False)
class Measurements:
    """Measures what the consumers read while the samples run.

    Attributes:
        analysis: The model.
        ops: Its consumers, in the order of the graph.
        samples: What is fed.
        batch_size: Samples in one run.
        requests: Where to run.
        options: The threads, the seed and the workspace.
        progress: Told how many samples have run, of how many; each counts once in every pass.
        first_sample: Number of the first sample, where these are a shard of all samples.
    """

    analysis: Analysis
    ops: Sequence[LinearOp]
    samples: Samples
    batch_size: int
    requests: Sequence[ProviderRequest]
    options: Options
    progress: Count | None
    first_sample: int = 0

    def square_sums(self) -> list[Floats]:
        """Return the summed squares of every index, (C,), per consumer."""
        return [each.total for each in self._map_sums(_square_sums)]

    def map_means(self, of_maps: OfMaps) -> list[Floats]:
        """Return the mean over samples of what a function makes of their maps, (C,), per consumer."""
        return [each.mean for each in self._map_sums(of_maps)]

    def contributions(self) -> list[Floats]:
        """Return Q, (C, C), per consumer."""
        observers = [ContributionObserver(op, (self.options.seed, number)) for number, op in enumerate(self.ops)]
        self.run(observers)
        return [observer.sum().total for observer in observers]

    def output_moments(self) -> list[OutputMoments]:
        """Return the second moments of what every consumer reads and gives, at drawn positions."""
        observers = [MomentObserver(op, (self.options.seed, number)) for number, op in enumerate(self.ops)]
        self.run(observers)
        return [observer.sum() for observer in observers]

    def _map_sums(self, of_maps: OfMaps) -> list[SampleSum]:
        """Add up what a function makes of the maps; consumers of the same axis share the result."""
        keys = [(op.data, op.zero, op.axis) for op in self.ops]
        observers: dict[tuple[str, str, int], MapObserver] = {}
        for key, op in zip(keys, self.ops, strict=True):
            observers.setdefault(key, MapObserver(op, of_maps))
        self.run([*observers.values()])
        return [observers[key].sum() for key in keys]

    def run(self, observers: Sequence[Observer]) -> None:
        """Let observers see the samples."""
        run_observers(
            self.analysis.model,
            observers,
            self.samples,
            batch_size=self.batch_size,
            providers=self.requests,
            threads=self.options.threads,
            workspace_bytes=self.options.workspace,
            progress=self.progress,
            first_sample=self.first_sample,
        )


@dataclass(slots=True, eq=False)
class InputObserver(Observer):
    """Adds up something of what a consumer reads.

    Attributes:
        op: The consumer.
        samples: Samples so far.
    """

    op: LinearOp
    samples: int = field(default=0, init=False)

    @property
    def needs(self) -> Mapping[str, Shape]:
        """What the op reads."""
        return self.op.reads

    @property
    def work(self) -> int:
        """Multiplications of one sample, if there are as many for every number."""
        return math.prod(self.op.data_shape) * len(self.op.channels)

    @abstractmethod
    def sum(self) -> Statistic:
        """Return the sum over all samples so far."""

    def statistics(self) -> dict[str, Statistic]:
        """Return the sum."""
        return {self.op.name: self.sum()}

    def _numbers(self, tensors: Arrays) -> NDArray[Any]:
        numbers = self.op.numbers(tensors)
        if numbers.dtype.kind == "f" and not np.isfinite(numbers).all():
            raise not_finite(self.op.data)
        return numbers


@dataclass(slots=True, eq=False)
class MapObserver(InputObserver):
    """Adds up one number of every map over the samples.

    Attributes:
        of_maps: Makes it, (N, C, *spatial) to (N, C).
    """

    of_maps: OfMaps
    _total: Floats = field(init=False)

    def __post_init__(self) -> None:
        self._total = np.zeros(len(self.op.channels))

    def see(self, tensors: Arrays, batch: Batch) -> None:
        """Count one batch in."""
        values = self.of_maps(channels_first(self._numbers(tensors), self.op.axis))
        self._total += values.sum(axis=0)
        self.samples += len(values)

    def sum(self) -> SampleSum:
        """Return the sum, (C,)."""
        return SampleSum(self._total, self.samples)


@dataclass(slots=True, eq=False)
class ContributionObserver(InputObserver):
    """Adds up Q of a consumer at drawn positions of its output; two activations count as weights of one.

    Attributes:
        key: What sets its draws apart from those of others.
    """

    key: tuple[int, ...]
    _contributions: Contributions = field(init=False)

    def __post_init__(self) -> None:
        op, count = self.op, len(self.op.channels)
        self._contributions = Contributions(partial(consumer_taps, op), count, consumer_taps(op).shape[1], op.group)

    def see(self, tensors: Arrays, batch: Batch) -> None:
        """Count one batch in."""
        unfolded = drawn_columns(self.op, self._numbers(tensors), POINTS, self.key, batch)
        self._contributions.add(unfolded.reshape(-1, *unfolded.shape[2:]))
        self.samples += batch.samples

    def sum(self) -> SampleSum:
        """Return Q, (C, C)."""
        return SampleSum(self._contributions.gram(), self.samples)


@dataclass(slots=True, eq=False)
class MomentObserver(InputObserver):
    """Adds up second moments at drawn positions of a consumer's output.

    Attributes:
        key: What sets its draws apart from those of others.
    """

    key: tuple[int, ...]
    _moments: OutputMoments | None = field(default=None, init=False)

    def see(self, tensors: Arrays, batch: Batch) -> None:
        """Count one batch in."""
        unfolded = drawn_columns(self.op, self._numbers(tensors), SHARE_POINTS, self.key, batch)
        moments = OutputMoments.of(unfolded.reshape(-1, *unfolded.shape[2:]), consumer_taps(self.op), self.op.group)
        self._moments = moments if self._moments is None else self._moments.merge(moments)
        self.samples += batch.samples

    def sum(self) -> OutputMoments:
        """Return the moments."""
        assert self._moments is not None, self.op.name
        return self._moments


@dataclass(slots=True, eq=False)
class SquareObserver(InputObserver):
    """Adds up the squares of what a consumer gives at drawn positions of its output.

    Attributes:
        key: What sets its draws apart from those of others.
        most: Samples that are counted in, the first ones of all.
    """

    key: tuple[int, ...]
    most: int
    _squares: OutputSquares | None = field(default=None, init=False)

    def see(self, tensors: Arrays, batch: Batch) -> None:
        """Count one batch in, as far as it is of those samples."""
        counted = min(batch.samples, self.most - batch.first)
        if counted <= 0:
            return
        # Whoever measures the sensitivities looks for numbers that are not finite.
        unfolded = drawn_columns(self.op, self.op.numbers(tensors), SHARE_POINTS, self.key, batch)
        unfolded = unfolded[: len(unfolded) * counted // batch.samples]
        squares = OutputSquares.of(unfolded.reshape(-1, *unfolded.shape[2:]), consumer_taps(self.op), self.op.group)
        self._squares = squares if self._squares is None else self._squares.merge(squares)
        self.samples += counted

    def restore(self, known: Mapping[str, OutputSquares]) -> None:
        """Take the sums of an observer that has seen all samples, in place of seeing them.

        Args:
            known: Sums by the name of the op.

        Raises:
            KeyError: They are not among them.
            ValueError: They have other shapes.
        """
        found = known[self.op.name]
        if found.outputs.shape != self.sum().outputs.shape:
            raise ValueError(self.op.name)
        self._squares = found

    def sum(self) -> OutputSquares:
        """Return the sums of squares: zeros of an op that saw nothing, as one of no detections."""
        outputs = consumer_taps(self.op).shape[1]
        return self._squares or OutputSquares(np.zeros((self.op.group, outputs)), 0)


def consumer_taps(op: LinearOp) -> AnyFloats:
    """Return the weights of a consumer, V (C, O/g, *kernel); two activations count as weights of one."""
    return np.ones((len(op.channels), 1, 1)) if op.weight is None else op.taps()


def drawn_columns(op: LinearOp, array: NDArray[Any], points: int, key: tuple[int, ...], batch: Batch) -> AnyFloats:
    """Unfold what an op reads at drawn positions of its output, (R, P, C, k); the rows R are those of the first axis.

    Args:
        op: The consumer.
        array: What it reads.
        points: Most positions of a row.
        key: What sets its draws apart from those of others.
        batch: The samples that the rows belong to.
    """
    if op.kind in {"conv", "conv_transpose"}:
        # Quantized convolutions of onnxruntime may have their channels last.
        array = np.moveaxis(array, op.axis, 1)
        shape = output_shape(op, array.shape)
        positions = sample_positions(shape, 1, points, key, batch.first_row(shape[0]))
        unfolded = columns(op, array, shape[2:], positions)
    else:
        # Channels last, so that the first axis is that of the samples, or of what there is in their place.
        moved = np.moveaxis(array, op.axis, -1) if array.ndim > 1 else array[None]
        last = moved.ndim - 1
        positions = sample_positions(moved.shape, last, points, key, batch.first_row(moved.shape[0]))
        unfolded = outputs_at(moved, last, positions)
    return unfolded.reshape(*positions.shape, len(op.channels), -1)


def channels_first(array: NDArray[Any], axis: int) -> NDArray[Any]:
    """Bring a tensor to (N, C, *spatial): a view."""
    array, axis = samples_first(array, axis)
    return np.moveaxis(array, axis, 1)


def _square_sums(maps: NDArray[Any]) -> Floats:
    flat = maps.reshape(*maps.shape[:2], -1).astype(np.float64)
    return np.einsum("ncp,ncp->nc", flat, flat)
