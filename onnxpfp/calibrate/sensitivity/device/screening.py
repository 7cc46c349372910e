"""The running sensitivities of one linear op, found where its data lie."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnxpfp.arrays import FLOAT_BYTES, Floats32, Ints
from onnxpfp.calibrate.sensitivity.device.arrangement import Arrangement, Extent
from onnxpfp.calibrate.sensitivity.device.bounds import Bounds
from onnxpfp.calibrate.sensitivity.device.operands import Operands, operands_of
from onnxpfp.calibrate.sensitivity.device.programs import Programs
from onnxpfp.calibrate.sensitivity.device.shares import Shares
from onnxpfp.calibrate.sensitivity.settings import FULL, Kernel, SensitivitySettings
from onnxpfp.calibrate.sensitivity.sums import scaled
from onnxpfp.linear.ops import LinearOp
from onnxpfp.runtime.device_memory import DeviceTensor

__all__ = ["FIRST", "DeviceScreening", "Part"]


FIRST = 32
"""Pairs of a block that are computed at first: the most promising, for these may settle the others."""
_MORE = 8
"""How many times as many are computed at once next."""
_SUMS, _BOUNDS, _INPUTS = 6, 4, 3
"""Arrays as large as z, as the bounds and as the unfolded input that are held at once."""
_CANDIDATES, _WEIGHTS, _COUNTED = 3, 3, 3
"""The same of what is gathered of candidates, of the blocks' weights and of their bounds."""


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """Some samples of a batch, as a family sees them.

    Attributes:
        data: The tensor of the whole batch.
        first: The first sample.
        last: The sample behind the last.
        extent: Of these samples.
        tables: Where taps read; see `Bounds` and `Shares`.
    """

    data: DeviceTensor
    first: int
    last: int
    extent: Extent
    tables: dict[str, DeviceTensor]


@dataclass(slots=True, eq=False)
class DeviceScreening:
    """Screens one linear op.

    Attributes:
        operands: What the graphs read of it.
        best: The largest share of each block so far, (b,) float32, in the rows of the operands.
        arrangement: Of its data.
        channels: C.
        programs: Runs the graphs.
        plan: How to compute.
        first: Pairs of a block that are computed at first.
    """

    operands: Operands
    best: Floats32
    arrangement: Arrangement
    channels: int
    programs: Programs
    plan: SensitivitySettings
    first: int
    _fixed: dict[str, DeviceTensor]

    @classmethod
    def of(
        cls, op: LinearOp, arrangement: Arrangement, programs: Programs, plan: SensitivitySettings, first: int
    ) -> DeviceScreening:
        """Bring a linear op to where its data are."""
        operands, arrays = operands_of(op, scaled(op), plan.kernel)
        best = np.zeros(operands.count, np.float32)
        return cls(operands, best, arrangement, len(op.channels), programs, plan, first, programs.put(arrays))

    def bytes_per_sample(self, extent: Extent) -> int:
        """Return how much memory one sample takes."""
        operands = self.operands
        rows, unfolded = 2 * operands.group * operands.outputs, operands.group * operands.products
        numbers = _SUMS * rows + _BOUNDS * operands.count + _INPUTS * unfolded
        return extent.pairs // extent.samples * max(FLOAT_BYTES * numbers, self._bytes_per_candidate())

    def see(self, part: Part, factor: float, *, nonnegative: bool) -> None:
        """Count some samples in.

        Args:
            part: The samples.
            factor: What the data are multiplied by, so that their largest entry is around one; below zero for the
                other sign.
            nonnegative: Whether there is only one sign.
        """
        operands = self.operands
        program = Bounds(self.arrangement, nonnegative, self._kernel, operands.several)
        feeds = {
            **self._fixed,
            **operands.shapes,
            **part.tables,
            "data": part.data,
            "arranged": np.array(self.arrangement.shape(self.channels)),
            "first": np.array([part.first]),
            "last": np.array([part.last]),
            "factor": np.array([factor], np.float32),
            "best": np.where(self.best < FULL, self.best, np.float32(np.inf)),
        }
        seen = self.programs.run(program, feeds, home=("above",))
        self._settle({**part.tables, **seen}, seen["above"].numpy(), part.extent)

    @property
    def _kernel(self) -> Kernel:
        # One entry is its own largest product.
        return self.plan.kernel if self.operands.entries > 1 else "sum"

    def _settle(self, seen: dict[str, DeviceTensor], above: Floats32, extent: Extent) -> None:
        """Compute shares until no bound is above the largest one.

        Args:
            seen: What `Bounds` has computed.
            above: How many bounds are, (b,).
            extent: Of the samples.
        """
        size = min(self.first, extent.pairs)
        left = self._raise(seen, np.flatnonzero(above), size, extent)
        while left.any():
            size = min(_MORE * size, extent.pairs)
            few = np.flatnonzero((left > 0) & (left <= size) if size < extent.pairs else left)
            self._raise(seen, few, size, extent)
            left[few] = 0

    def _raise(self, seen: dict[str, DeviceTensor], which: Ints, size: int, extent: Extent) -> Floats32:
        """Compute the shares of blocks at their most promising pairs.

        Returns:
            How many bounds are above the largest share, (b,); 0 where all of these have been computed.
        """
        left = np.zeros(len(self.best), np.float32)
        for some in self._portions(which, size, extent.pairs):
            feeds = {**self._fixed, **seen, **self._scalars(some, size, extent)}
            shares = self.programs.run(self._shares, feeds, home=("found", "left"))
            self.best[some] = shares["found"].numpy()
            count = shares["left"].numpy()
            left[some] = np.where(count > size, count, 0)
        return left

    @property
    def _shares(self) -> Shares:
        return Shares(self.arrangement.plain, self._kernel == "max")

    def _scalars(self, which: Ints, size: int, extent: Extent) -> dict[str, NDArray[np.generic]]:
        width = extent.size + (0 if self.arrangement.plain else 1)
        return {
            "which": which,
            "size": np.array([size]),
            "best": self.best[which],
            "full": np.array([FULL], np.float32),
            "positions": np.array([extent.positions]),
            "step": np.array([self.channels * width]),
            "width": np.array([width]),
        }

    def _portions(self, which: Ints, size: int, pairs: int) -> Iterator[Ints]:
        """Cut blocks such that what is gathered of them stays within the memory, as far as one block can keep it."""
        weights = self.operands.entries * 2 * self.operands.outputs
        each = size * self._bytes_per_candidate() + FLOAT_BYTES * (_WEIGHTS * weights + _COUNTED * pairs)
        many = max(1, self.plan.workspace_bytes // each)
        for start in range(0, len(which), many):
            yield which[start : start + many]

    def _bytes_per_candidate(self) -> int:
        rows, entries = 2 * self.operands.outputs, self.operands.entries
        products = rows * entries if self._kernel == "max" else 0
        return FLOAT_BYTES * (_CANDIDATES * (rows + 2 * entries) + 2 * products)
