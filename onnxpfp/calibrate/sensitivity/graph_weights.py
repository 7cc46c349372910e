"""Weights of a linear op as the probe needs them: constants in memory, or tensors of the graph in external files.

Both are brought to the layouts of the probe by the same operations. On weights in memory those are done while the probe
is built. On external ones they become nodes, which work on what was picked before: no run ever has a whole copy.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from onnxpfp.arrays import CHUNK_BYTES, FLOAT_BYTES
from onnxpfp.calibrate.graph_builder import GraphBuilder, Tensor
from onnxpfp.linear.layout import Layout
from onnxpfp.linear.ops import FileWeight, LinearOp

__all__ = ["Taps", "taps_of"]


class Taps(Layout, Protocol):
    """Weights on their way into the probe."""

    def take(self, indices: NDArray[np.int64], axis: int) -> Self:
        """Pick indices of an axis."""
        ...

    def signed(self) -> Self:
        """Stack the positive and the negative part along axis 1."""
        ...

    def times(self, factor: NDArray[np.float32]) -> Self:
        """Multiply by numbers that broadcast."""
        ...

    def emit(self) -> Tensor:
        """Return them as a tensor of the probe, float32."""
        ...

    @property
    def portion(self) -> int:
        """The number of indices of axis 1 to work on at once."""
        ...


def taps_of(builder: GraphBuilder, op: LinearOp) -> Taps:
    """Return the canonical weights V (C, O/g, *kernel) of a linear op that has some."""
    weight = op.weight
    if not isinstance(weight, FileWeight) or not weight.tensor:
        return _InMemory(builder, np.asarray(op.taps(), dtype=np.float32))
    lying = _External(builder, builder.find(weight.tensor), weight.stored, tuple(range(len(weight.stored))))
    moved = lying.transpose(weight.order)
    return op.canonical(moved if moved.shape == weight.shape else moved.reshape(weight.shape))


@dataclass(frozen=True, slots=True, eq=False)
class _InMemory:
    """Weights in memory, a constant of the probe."""

    target: GraphBuilder
    array: NDArray[np.float32]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape

    @property
    def portion(self) -> int:
        return self.array.shape[1]

    def transpose(self, order: tuple[int, ...], /) -> Self:
        return replace(self, array=self.array.transpose(order))

    def reshape(self, shape: tuple[int, ...], /) -> Self:
        return replace(self, array=self.array.reshape(shape))

    def take(self, indices: NDArray[np.int64], axis: int) -> Self:
        return replace(self, array=np.take(self.array, indices, axis))

    def signed(self) -> Self:
        return replace(self, array=np.concatenate([np.maximum(self.array, 0), np.maximum(-self.array, 0)], axis=1))

    def times(self, factor: NDArray[np.float32]) -> Self:
        return replace(self, array=self.array * factor)

    def emit(self) -> Tensor:
        return self.target.constant(self.array)


@dataclass(frozen=True, slots=True, eq=False)
class _External:
    """Weights in an external file, a tensor of the graph; its axes are permuted only after something was picked.

    Attributes:
        target: The graph.
        tensor: The tensor as it lies there.
        shape: Its shape after the permutation.
        order: The permutation.
    """

    target: GraphBuilder
    tensor: Tensor
    shape: tuple[int, ...]
    order: tuple[int, ...]

    @property
    def portion(self) -> int:
        each = FLOAT_BYTES * math.prod(self.shape) // self.shape[1]
        return max(1, CHUNK_BYTES // max(1, each))

    def transpose(self, order: tuple[int, ...], /) -> Self:
        return replace(
            self, shape=tuple(self.shape[axis] for axis in order), order=tuple(self.order[axis] for axis in order)
        )

    def reshape(self, shape: tuple[int, ...], /) -> Self:
        return self._new(self.target.reshape(self._settled(), shape), shape)

    def take(self, indices: NDArray[np.int64], axis: int) -> Self:
        picked = self.target.gather(self.tensor, indices, self.shape[axis], self.order[axis])
        return replace(self, tensor=picked, shape=(*self.shape[:axis], len(indices), *self.shape[axis + 1 :]))

    def signed(self) -> Self:
        numbers = self.target.as_float(self._settled())
        both = self.target.op("Concat", self.target.signs(numbers, nonnegative=False), {"axis": 1})
        return self._new(both, (self.shape[0], 2 * self.shape[1], *self.shape[2:]))

    def times(self, factor: NDArray[np.float32]) -> Self:
        return self._new(self.target.op("Mul", [self._settled(), self.target.constant(factor)]), self.shape)

    def emit(self) -> Tensor:
        return self._settled()

    def _settled(self) -> Tensor:
        """Permute the axes."""
        return self.target.transpose(self.tensor, self.order)

    def _new(self, tensor: Tensor, shape: tuple[int, ...]) -> Self:
        return replace(self, tensor=tensor, shape=shape, order=tuple(range(len(shape))))
