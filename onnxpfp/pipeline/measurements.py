"""Measurements of what consumers read, for criteria: sums of squares, means over maps, contributions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxpfp.arrays import Arrays, Floats
from onnxpfp.calibrate.activations import Bundle, channels_first, stream_activations
from onnxpfp.channels import Analysis
from onnxpfp.data.samples import Samples
from onnxpfp.linear.columns import columns, outputs_at, sample_positions
from onnxpfp.linear.ops import LinearOp
from onnxpfp.options import Options
from onnxpfp.progress import Count
from onnxpfp.runtime.providers import ProviderRequest
from onnxpfp.score.maps import MapMean
from onnxpfp.score.thinet import Contributions

__all__ = ["Measurements"]


POINTS = 10
"""Output positions per sample at which ThiNet looks: neighbours say much the same."""


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
        return [mean.total for mean in self._map_means(_square_sums)]

    def map_means(self, of_maps: Callable[[NDArray[Any]], Floats]) -> list[Floats]:
        """Return the mean over samples of what a function makes of their maps, (C,), per consumer."""
        return [mean.mean for mean in self._map_means(of_maps)]

    def contributions(self) -> list[Floats]:
        """Return Q, (C, C), per consumer."""
        return [total.gram() for total in self.contribution_sums()]

    def contribution_sums(self) -> list[Contributions]:
        """Return the sums that Q is made of, per consumer."""
        sums = [_contributions(op) for op in self.ops]
        counted = [self.first_sample for _ in self.ops]
        for position, values in self._run([self._bundle(p, outputs=True) for p in range(len(self.ops))]):
            unfolded, samples = self._columns(position, values, counted[position])
            sums[position].add(unfolded.reshape(len(unfolded), len(self.ops[position].channels), -1))
            counted[position] += samples
        return sums

    def _map_means(self, of_maps: Callable[[NDArray[Any]], Floats]) -> list[MapMean]:
        """Apply a function to the maps of every sample; consumers of the same axis share the result."""
        keys = [(op.data, op.zero, op.axis) for op in self.ops]
        first = {key: position for position, key in reversed([*enumerate(keys)])}
        order = sorted(first.values())
        means: dict[int, MapMean] = {}
        for number, values in self._run([self._bundle(position) for position in order]):
            op = self.ops[order[number]]
            batch = MapMean.of(of_maps(channels_first(self._numbers(op, values), op.axis)))
            means[number] = means[number].merge(batch) if number in means else batch
        return [means[order.index(first[key])] for key in keys]

    def _run(self, bundles: Sequence[Bundle]) -> Iterator[tuple[int, Arrays]]:
        """Yield every bundle of every batch, with its position."""
        for run, values in stream_activations(
            self.analysis.model,
            bundles,
            self.samples,
            batch_size=self.batch_size,
            providers=self.requests,
            threads=self.options.threads,
            # One batch is looked at while the next is made.
            workspace_bytes=self.options.workspace // 2,
            progress=self.progress,
        ):
            for position in run:
                yield position, values

    def _bundle(self, position: int, *, outputs: bool = False) -> Bundle:
        """List the tensors to expose of a consumer: its data, a zero point that is computed, its output on demand."""
        op = self.ops[position]
        names = {op.data: op.data_shape}
        if op.zero and op.zero not in self.analysis.constants.names:
            names[op.zero] = ()
        if outputs and op.kind in {"conv", "conv_transpose"}:
            names[self.analysis.graph.consumers[position].output] = op.output_shape
        return names

    def _numbers(self, op: LinearOp, values: Arrays) -> NDArray[Any]:
        """Return what a consumer reads, quantized data minus their zero point."""
        array = values[op.data]
        if not op.zero:
            return array
        known = op.zero in self.analysis.constants.names
        zero = self.analysis.constants.value(op.zero) if known else values[op.zero]
        return array.astype(np.float32) - zero.astype(np.float32)

    def _columns(self, position: int, values: Arrays, first: int) -> tuple[NDArray[Any], int]:
        """Return the columns of a consumer at drawn positions, (T, C * k), and the number of samples."""
        op, key = self.ops[position], (self.options.seed, position)
        array = self._numbers(op, values)
        if op.kind in {"conv", "conv_transpose"}:
            shape = values[self.analysis.graph.consumers[position].output].shape
            return columns(op, array, shape[2:], sample_positions(shape, 1, POINTS, key, first)), shape[0]
        # Channels last, so that the first axis is that of the samples, or of what there is in their place.
        moved = np.moveaxis(array, op.axis, -1) if array.ndim > 1 else array[None]
        last = moved.ndim - 1
        return outputs_at(moved, last, sample_positions(moved.shape, last, POINTS, key, first)), len(moved)


def _square_sums(maps: NDArray[Any]) -> Floats:
    flat = maps.reshape(*maps.shape[:2], -1).astype(np.float64)
    return np.einsum("ncp,ncp->nc", flat, flat)


def _contributions(op: LinearOp) -> Contributions:
    """Begin Q of a consumer; two activations count as weights of one."""
    count = len(op.channels)
    if op.weight is None:
        return Contributions(lambda: np.ones((count, 1, 1)), count, 1)
    return Contributions(op.taps, count, op.taps().shape[1], op.group)
