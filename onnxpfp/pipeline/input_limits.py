"""How large the inputs of a network are: on samples, with what its linear ops read there, or as the user says."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from onnxpfp.arrays import AnyFloats, Arrays
from onnxpfp.calibrate.observer import Batch
from onnxpfp.channels import Analysis
from onnxpfp.errors import OptionError
from onnxpfp.linear.columns import columns
from onnxpfp.linear.describe import constant_consumer, linear_op
from onnxpfp.linear.im2col import output_sizes
from onnxpfp.linear.ops import LinearOp
from onnxpfp.linear.producers import producers_of
from onnxpfp.linear.reach import InputLimits
from onnxpfp.linear.tensor_reach import largest_number
from onnxpfp.pipeline.measurements import InputObserver, Measurements

__all__ = ["Largest", "PatchNormObserver", "measured_limits", "patch_norms", "typed_limits"]


@dataclass(frozen=True, slots=True)
class Largest:
    """The largest number seen.

    Attributes:
        value: That number, not negative.
        samples: Samples seen.
    """

    value: float
    samples: int

    def merge(self, other: Self) -> Self:
        """Combine with that of other samples."""
        return type(self)(max(self.value, other.value), self.samples + other.samples)


@dataclass(slots=True, eq=False)
class PatchNormObserver(InputObserver):
    """Finds the largest norm of what a linear op reads for one output (beta of Mussay et al., ICLR 2020)."""

    _largest: float = field(default=0.0, init=False)

    def see(self, tensors: Arrays, batch: Batch) -> None:
        """Count one batch in."""
        numbers = self._numbers(tensors)
        if numbers.size:
            self._largest = max(self._largest, float(patch_norms(self.op, numbers).max(initial=0.0)))
        self.samples += batch.samples

    def sum(self) -> Largest:
        """Return the largest norm."""
        return Largest(self._largest, self.samples)


def patch_norms(op: LinearOp, numbers: NDArray[Any]) -> AnyFloats:
    """Return the norm of what a linear op with stored weights reads for every output position and convolution group.

    Args:
        op: The op.
        numbers: What it reads: (N, C, *spatial), or with the contracted axis of a matrix product.
    """
    squares = np.square(numbers.astype(np.float64))
    if op.kind == "matmul":
        return np.sqrt(squares.sum(axis=op.axis - len(op.data_shape)))
    squares = squares.reshape(len(squares), op.group, -1, *squares.shape[2:]).sum(axis=2)
    spatial = output_sizes(op, squares.shape[2:])
    positions = np.arange(math.prod(spatial))[None]
    # One sample at a time: there are k numbers for every output position.
    taps = (columns(op, sample[None], spatial, positions).reshape(positions.size, op.group, -1) for sample in squares)
    return np.sqrt(np.stack([each.sum(axis=2) for each in taps]))


def measured_limits(analysis: Analysis, measurements: Measurements) -> InputLimits:
    """Measure how large the inputs of a model are on samples, and what its producers read.

    Args:
        analysis: The model.
        measurements: Lets the samples run.
    """
    observers = {op.name: PatchNormObserver(op) for op in _producing_ops(analysis)}
    measurements.run([*observers.values()])
    inputs: dict[str, float] = {}
    for feed in measurements.samples.batches(measurements.batch_size):
        for name, array in feed.items():
            if array.dtype.kind in "fiu" and array.size:
                inputs[name] = max(inputs.get(name, 0.0), largest_number(array))
    return InputLimits(inputs, {name: observer.sum().value for name, observer in observers.items()})


def typed_limits(analysis: Analysis, ranges: Mapping[str, tuple[float, float]]) -> InputLimits | None:
    """Take the limits of inputs from the ranges that a user gives; None where none are given.

    Raises:
        OptionError: The model has no input of that name.
    """
    if not ranges:
        return None
    names = [info.name for info in analysis.model.graph.input]
    for name in ranges if not analysis.source.place else ():
        if name not in names:
            raise OptionError(f"--input-range '{name}' is no input of the model: it has {', '.join(names)}")
    return InputLimits({name: max(abs(low), abs(high)) for name, (low, high) in ranges.items()})


def _producing_ops(analysis: Analysis) -> Iterator[LinearOp]:
    """Describe the linear ops that bring forth channels, under the names of their outputs."""
    for producer in producers_of(analysis):
        consumer = constant_consumer(analysis.index.producers[producer.output], analysis)
        if consumer is not None:
            yield linear_op(producer.output, consumer, analysis)
