"""The observer of one family of linear ops: screened sensitivities, sums and squares of its input, batch by batch."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from onnxpfp.arrays import Arrays, Floats, Floats32
from onnxpfp.calibrate.observer import Batch, Shape, not_finite
from onnxpfp.calibrate.sensitivity.base import FamilyObserver
from onnxpfp.calibrate.sensitivity.scratch import ScratchArrays, ScratchOfThreads
from onnxpfp.calibrate.sensitivity.screening import Screening
from onnxpfp.calibrate.sensitivity.sums import Scaled, SumField, Sums, scaled
from onnxpfp.linear.families import OpFamily
from onnxpfp.linear.im2col import output_sizes
from onnxpfp.linear.ops import LinearOp
from onnxpfp.runtime.heap import trim_malloc

__all__ = ["Screen", "SensitivityObserver"]


_AT_ONCE = 1 << 20
"""Sums and inputs that are looked at at once."""
_PER_BLOCK, _AT_MOST = 1 << 15, 1 << 19
"""The same where blocks are looked at one by one: enough for each of them, but what a cache still holds."""
_LARGE = 4 << 20
_SMALL = 1e-9
_FAINT = 1e-3
"""Share of the mean magnitude that every index of the input is expected to have at least."""
_LIVE = 4
"""Arrays of that size that are held at once."""


class Screen(Protocol):
    """Finds the sensitivities of one linear op from its sums."""

    @property
    def channels(self) -> NDArray[np.int64]:
        """Channel id of each block, (b,)."""
        ...

    @property
    def best(self) -> Floats32:
        """The largest share of each block so far, (b,)."""
        ...

    @property
    def is_started(self) -> bool:
        """Whether a block has a share."""
        ...

    def see(self, seen: SumField, highest: float, scratch: ScratchArrays) -> None:
        """Count some samples in, of which `highest` is the largest input."""
        ...


@dataclass(slots=True, eq=False)
class SensitivityObserver(FamilyObserver):
    """The running statistics of one family, computed by numpy.

    Attributes:
        scratch: Where intermediates go; families that are measured together share it.
    """

    scratch: ScratchOfThreads = field(default_factory=ScratchOfThreads)
    _sums: Sums | None = None
    _screens: dict[str, Screen] = field(default_factory=dict[str, Screen])
    _totals: dict[tuple[int, ...], Floats] = field(default_factory=dict[tuple[int, ...], Floats])
    _squares: Floats = field(default_factory=lambda: np.zeros(0))

    @property
    def needs(self) -> Mapping[str, Shape]:
        """What the ops read."""
        return self.family.lead.reads

    def see(self, tensors: Arrays, batch: Batch) -> None:
        """Count one batch in.

        Raises:
            CalibrationError: There is NaN or infinity in it.
        """
        scratch = self.scratch.here()
        x = self.family.arrange(self.family.lead.numbers(tensors))
        self._count(x)
        self._samples += batch.samples
        lowest = 0.0 if self.nonnegative else float(x.min())
        self._negative = self._negative or lowest < 0
        read = self.family.strided(x)
        if self._sums is None and not self._open(read):
            return
        if lowest >= 0:
            self._screen(read, scratch)
            return
        part = scratch.take("part", read.shape)
        self._screen(np.maximum(read, 0, out=part), scratch)
        self._screen(np.negative(np.minimum(read, 0, out=part), out=part), scratch)

    def _count(self, x: Floats32) -> None:
        """Add up the input and its squares, and count the positions of the output."""
        lead, read = self.family.lead, self.family.strided(x)
        total = read.sum(0, dtype=np.float64 if len(x) == 1 else np.float32)
        if not np.isfinite(total).all():
            raise not_finite(lead.data)
        sizes = read.shape[2:]
        flat = self.family.flat
        if flat:
            total = total.reshape(len(total), -1).sum(1, dtype=np.float64, keepdims=True)
        key = () if flat else sizes
        self._totals[key] = self._totals.get(key, 0.0) + total.astype(np.float64)
        rows = x.reshape(x.shape[0], x.shape[1], -1)
        squares = np.einsum("ncp,ncp->nc", rows, rows).sum(0, dtype=np.float64)
        self._squares = self._squares + squares if self._samples else squares
        self._patches += len(x) * math.prod(sizes if flat else output_sizes(lead, sizes))

    def _open(self, x: Floats32) -> bool:
        """Load what computes sums, and tell whether there is anything to compute."""
        scored = [op for op in self.family.ops if op.channels.any()]
        if not scored or not (self._squares.any() or x.any()):
            return False
        typical = self._typical(x)
        family = OpFamily(tuple(scored))
        weights = [scaled(op, typical) for op in scored]
        self._sums = Sums.of(family, weights, self.plan.kernel)
        pairs = zip(scored, weights, strict=True)
        self._screens = {op.name: self._screen_of(op, each, family) for op, each in pairs}
        if sum(each.taps.nbytes for each in weights) > _LARGE:
            # They were copied several times on the way into onnxruntime.
            trim_malloc()
        return True

    def _screen_of(self, op: LinearOp, weights: Scaled, family: OpFamily) -> Screen:
        """Return what finds the sensitivities of one op."""
        return Screening.of(op, weights, family, self.plan)

    def _typical(self, x: Floats32) -> Floats:
        """Return magnitudes that the indices of the input are expected to have, (C,), given a batch with entries."""
        with np.errstate(over="ignore"):
            sizes = np.sqrt(self._squares * (x.shape[1] / x.size))
        if not 0 < sizes.max() < np.inf:
            # Squares vanish or overflow.
            sizes = self._in_units(np.abs(x))[0].mean((0, *range(2, x.ndim)), dtype=np.float64)
        if not sizes.any():
            # Entries are only where no window reads them.
            sizes = np.ones(len(sizes))
        # Indices that are silent so far may speak later.
        return sizes + _FAINT * sizes.mean()

    def _screen(self, x: Floats32, scratch: ScratchArrays) -> None:
        """Screen one sign of the input."""
        assert self._sums is not None
        x, highest = self._in_units(x)
        if not highest:
            return
        for part in self._pieces(x):
            fields = self._sums.run(x[part], scratch)
            for screen, seen in zip(self._screens.values(), fields, strict=True):
                # One sample comes first of all, which spares the others most of their candidates.
                for some in [seen] if screen.is_started else [seen.part(slice(0, 1)), seen.part(slice(1, None))]:
                    if len(some.z):
                        screen.see(some, highest, scratch)

    def _in_units(self, x: Floats32) -> tuple[Floats32, float]:
        """Scale samples whose squares would vanish or overflow; shares do not depend on the scale of a sample.

        Returns:
            The samples, and their largest entry.
        """
        last = self.family.samples_last
        top = x.max(tuple(range(1, x.ndim)) if not last else (0, 1))
        odd = (top > 0) & ((top < _SMALL) | (top > 1 / _SMALL))
        if not odd.any():
            return x, float(top.max())
        unit = np.where(odd, top, np.float32(1))
        x = np.divide(x, unit if last else unit.reshape(-1, *[1] * (x.ndim - 1)), dtype=np.float32)
        return x, float(x.max())

    def _pieces(self, x: Floats32) -> Iterator[slice]:
        """Cut a batch, always alike: onnxruntime may round a sum by what is beside it."""
        assert self._sums is not None
        sizes = x.shape[2:]
        flat = self.family.flat
        positions = math.prod(sizes if flat else output_sizes(self.family.lead, sizes))
        blocks = max(len(screen.channels) for screen in self._screens.values())
        wanted = _AT_ONCE if flat else min(_PER_BLOCK * blocks, _AT_MOST)
        wanted = min(wanted, self.plan.workspace_bytes // (4 * _LIVE))
        size = max(1, wanted // max(1, (sum(self._sums.rows) + x.shape[1]) * positions))
        for first in range(0, len(x), size):
            yield slice(first, min(len(x), first + size))

    def _largest_shares(self, op: LinearOp) -> tuple[NDArray[np.int64], Floats32] | None:
        screen = self._screens.get(op.name)
        return None if screen is None else (screen.channels, screen.best)

    def _input_sums(self) -> Mapping[tuple[int, ...], Floats]:
        return self._totals

    def _square_sum(self) -> Floats:
        return self._squares if self._samples else np.zeros(len(self.family.lead.channels))
