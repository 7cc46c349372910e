"""The observer of one family on the device where the network runs: as `calibrate.sensitivity.observer` on the host."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from onnxpfp.calibrate.observer import Batch, Shape, not_finite
from onnxpfp.calibrate.sensitivity.base import FamilyObserver
from onnxpfp.calibrate.sensitivity.device.arrangement import Arrangement, Extent
from onnxpfp.calibrate.sensitivity.device.programs import Programs
from onnxpfp.calibrate.sensitivity.device.screening import FIRST, DeviceScreening, Part
from onnxpfp.calibrate.sensitivity.device.totals import Totals
from onnxpfp.linear.im2col import tap_sources
from onnxpfp.linear.ops import LinearOp
from onnxpfp.runtime.device_memory import DeviceTensor

__all__ = ["DeviceSensitivityObserver"]

_EXPONENT = 126
"""Of the largest and the smallest power of two that float32 has with all its digits, and their inverses."""

_PAIRS = 1 << 23
"""Most pairs of several samples: they are counted in float32."""


@dataclass(slots=True, eq=False)
class DeviceSensitivityObserver(FamilyObserver):
    """The running statistics of one family, computed by graphs where the network runs.

    Attributes:
        tap: The tensor that the ops read, as float32 and minus its zero point.
        programs: Runs the graphs.
        first: Pairs of a block whose shares are computed at first.
    """

    tap: str
    programs: Programs
    first: int = FIRST
    _screens: dict[str, DeviceScreening] = field(default_factory=dict[str, DeviceScreening])
    _tables: dict[Shape, dict[str, DeviceTensor]] = field(default_factory=dict[Shape, dict[str, DeviceTensor]])
    _totals: dict[Shape, DeviceTensor] = field(default_factory=dict[Shape, DeviceTensor])
    _squares: DeviceTensor = None

    @property
    def needs(self) -> Mapping[str, Shape]:
        """What the ops read, minus its zero point."""
        return {self.tap: self.family.lead.data_shape}

    def see(self, tensors: Mapping[str, DeviceTensor], batch: Batch) -> None:
        """Count one batch in.

        Args:
            tensors: What it needs, where the programs run.
            batch: The samples that they belong to.

        Raises:
            CalibrationError: There is NaN or infinity in it.
        """
        data = tensors[self.tap]
        arrangement = Arrangement.of(self.family)
        extent = Extent.of(self.family, arrangement, data.shape())
        self._patches += extent.pairs
        self._samples += batch.samples
        with self.programs.lock:
            lowest, highest = self._count(data, arrangement, extent)
            self._negative = self._negative or lowest < 0
            if not self._screens:
                self._open(arrangement)
            factor = _factor(max(-lowest, highest))
            for part in self._parts(data, extent, self._read(extent)):
                for screen in self._screens.values():
                    for sign in (1,) if lowest >= 0 else (1, -1):
                        screen.see(part, sign * factor, nonnegative=self.nonnegative)

    def _largest_shares(self, op: LinearOp) -> tuple[NDArray[np.int64], NDArray[np.float32]] | None:
        screen = self._screens.get(op.name)
        return None if screen is None else (screen.operands.ids, screen.best[screen.operands.slots])

    def _input_sums(self) -> Mapping[Shape, NDArray[np.float64]]:
        return {sizes: np.array(total.numpy()) for sizes, total in self._totals.items()}

    def _square_sum(self) -> NDArray[np.float64]:
        return np.array(self._squares.numpy())

    def _count(self, data: DeviceTensor, arrangement: Arrangement, extent: Extent) -> tuple[float, float]:
        """Add up the input and its squares; return its smallest and its largest entry."""
        channels = len(self.family.lead.channels)
        key = () if arrangement.plain else extent.sizes
        if self._squares is None:
            self._squares = self.programs.place.put(np.zeros(channels))
        if key not in self._totals:
            self._totals[key] = self.programs.place.put(np.zeros((channels, math.prod(key))))
        feeds = {
            "data": data,
            "arranged": np.array(arrangement.shape(channels)),
            "total": self._totals[key],
            "squares": self._squares,
        }
        totals = self.programs.run(Totals(arrangement), feeds, home=("lowest", "highest", "check"))
        self._totals[key], self._squares = totals["new_total"], totals["new_squares"]
        if not np.isfinite(totals["check"].numpy()).all():
            lead = self.family.lead
            raise not_finite(lead.data)
        return float(totals["lowest"].numpy().item()), float(totals["highest"].numpy().item())

    def _open(self, arrangement: Arrangement) -> None:
        """Bring the weights of all scored linear ops to the data."""
        for op in self.family.ops:
            if op.channels.any():
                self._screens[op.name] = DeviceScreening.of(op, arrangement, self.programs, self.plan, self.first)

    def _read(self, extent: Extent) -> dict[str, DeviceTensor]:
        """Return where taps read; nothing where a position sees the input at the same position."""
        if Arrangement.of(self.family).plain:
            return {}
        if extent.sizes not in self._tables:
            source, inside = tap_sources(self.family.lead, extent.sizes, extent.spatial, np.arange(extent.positions))
            reads = source if inside is None else np.where(inside, source, extent.size)
            self._tables = {extent.sizes: self.programs.put({"table": reads.T, "reads": reads})}
        return self._tables[extent.sizes]

    def _parts(self, data: DeviceTensor, extent: Extent, tables: dict[str, DeviceTensor]) -> Iterator[Part]:
        """Cut a batch such that what is made of a part stays within the memory, as far as one sample can keep it."""
        if not self._screens:
            return
        each = max(screen.bytes_per_sample(extent) for screen in self._screens.values())
        most = min(self.plan.workspace_bytes // each, _PAIRS // max(1, extent.pairs // extent.samples))
        for first in range(0, extent.samples, max(1, most)):
            last = min(extent.samples, first + max(1, most))
            yield Part(data, first, last, extent.cut(last - first), tables)


def _factor(highest: float) -> float:
    """Return the power of two that brings a number close to one, as far as float32 has it."""
    return float(2.0 ** -np.clip(np.frexp(highest)[1], -_EXPONENT, _EXPONENT))
