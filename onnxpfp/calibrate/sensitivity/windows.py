"""What the windows of a linear op read, looked up for chosen output positions."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import cast

import numpy as np

from onnxpfp.arrays import Floats32, Ints
from onnxpfp.calibrate.sensitivity.sums import SumField
from onnxpfp.linear.im2col import tap_sources
from onnxpfp.linear.ops import LinearOp

__all__ = ["WindowReader"]


@dataclass(frozen=True, slots=True, eq=False)
class WindowReader:
    """Looks up the inputs of one linear op.

    Attributes:
        op: The linear op.
        flat: Whether output positions are input positions.
    """

    op: LinearOp
    flat: bool
    _sources: dict[tuple[tuple[int, ...], ...], tuple[Ints, Floats32]] = field(
        default_factory=dict[tuple[tuple[int, ...], ...], tuple[Ints, Floats32]]
    )

    def inputs(self, seen: SumField, place: Ints, indices: Ints) -> Floats32:
        """Return the inputs at (m,) places for indices (m, I) of their blocks, (m, I * k)."""
        count = seen.z.shape[1]
        flat: Floats32 = seen.x.reshape(-1)
        if self.flat:
            return flat[place[:, None] * seen.x.shape[2] + indices]
        sample, position = np.divmod(place, count)
        source, inside = self._taps_read(seen)
        channels, size = seen.x.shape[1], math.prod(seen.sizes)
        read = np.take(source, position, axis=0)[:, None, :]
        read = read + ((sample[:, None] * channels + indices) * size)[:, :, None]
        u = cast("Floats32", np.take(flat, read))
        u *= np.take(inside, position, axis=0)[:, None, :]
        return u.reshape(len(place), -1)

    def _taps_read(self, seen: SumField) -> tuple[Ints, Floats32]:
        """Return what every tap reads at every output position, (P, k), and 0 where there is nothing, 1 elsewhere."""
        key = seen.sizes, seen.spatial
        if key not in self._sources:
            self._sources.clear()
            source, inside = tap_sources(self.op, *key, np.arange(math.prod(seen.spatial), dtype=np.int64))
            there = np.ones(source.shape, np.bool_) if inside is None else inside
            self._sources[key] = source, there.astype(np.float32)
        return self._sources[key]
